"""Tables with deleted, overwritten and renamed rows or columns, as their own libraries see them."""

import base64
import datetime as dt
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table as IcebergTable
from pyiceberg.utils.config import Config
from pyroaring import BitMap

from dat_rec.commands.parse import parse
from dat_rec.data.prepare import stages
from dat_rec.data.prepare.journal import made_of
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources import SOURCES
from dat_rec.data.sources.named_tables import named_table
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.tables import parquet
from dat_rec.errors import UserError
from tests.data.sources.prepared import Prepared, refused

COLUMNS = ("user_id", "item_id", "time", "day")
Row = tuple[Any, ...]


def rows(first: int, stop: int) -> pa.Table:
    numbers = range(first, stop)
    return pa.table(
        {
            "user_id": [n % 7 for n in numbers],
            "item_id": [f"i{n % 5}" for n in numbers],
            "time": pa.array([n * 10**6 for n in numbers], pa.timestamp("us", "UTC")),
            "day": [dt.date(2026, 11, 1 + n // 100) for n in numbers],
        }
    )


def read(path: Any, *columns: str, **options: Any) -> list[Row]:
    database = duckdb.connect()
    table = parquet(database, named_table(path, "interactions", **options), columns)
    database.execute("SET TimeZone = 'UTC'")
    return library(database.sql(f"SELECT * FROM {table}").to_arrow_table(), *columns)


def library(table: pa.Table, *columns: str) -> list[Row]:
    found = (tuple(row[name] for name in columns) for row in table.to_pylist())
    return sorted(found, key=str)


def refusal(path: Any, *columns: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path, *(columns or COLUMNS), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def delta(folder: Path) -> DeltaTable:
    """Five versions: written, appended, deleted from, updated, overwritten in part."""
    write_deltalake(folder, rows(0, 300), partition_by=["day"])
    write_deltalake(folder, rows(300, 500), mode="append")
    table = DeltaTable(folder)
    table.delete("user_id = 3")
    table.update(predicate="user_id = 5", updates={"item_id": "'moved'"})
    write_deltalake(folder, rows(100, 150), mode="overwrite", predicate="day = '2026-11-02'")
    return DeltaTable(folder)


@pytest.fixture
def iceberg(tmp_path: Path) -> Iterator[IcebergTable]:
    """Written, appended, deleted from, overwritten in part; one column renamed, one added."""
    catalog = SqlCatalog("c", uri=f"sqlite:///{tmp_path}/c.db", warehouse=f"file://{tmp_path}/w")
    catalog.create_namespace("ns")
    table = catalog.create_table("ns.log", schema=rows(0, 1).schema)
    with table.update_spec() as spec:
        spec.add_identity("day")
    table.append(rows(0, 300))
    table.append(rows(300, 500))
    table.delete("user_id = 3")
    table.overwrite(rows(100, 150), "day = '2026-11-02'")
    yield table
    catalog.close()


def folder_of(table: IcebergTable) -> Path:
    return Path(table.location().removeprefix("file://"))


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, None])
def test_every_version_of_a_delta_table_has_the_librarys_rows(
    version: int | None, tmp_path: Path
) -> None:
    delta(tmp_path / "log")
    expected = DeltaTable(tmp_path / "log", version=version).to_pyarrow_table()
    assert read(tmp_path / "log", *COLUMNS, version=version) == library(expected, *COLUMNS)
    files = list((tmp_path / "log").rglob("*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) > expected.num_rows


def test_every_snapshot_of_an_iceberg_table_has_the_librarys_rows(iceberg: IcebergTable) -> None:
    path = folder_of(iceberg)
    snapshots = [snapshot.snapshot_id for snapshot in iceberg.snapshots()]
    assert len(snapshots) > 3
    for snapshot in snapshots:
        expected = iceberg.scan(snapshot_id=snapshot).to_arrow()
        assert read(path, *COLUMNS, version=snapshot) == library(expected, *COLUMNS)
    expected = iceberg.scan().to_arrow()
    assert read(path, *COLUMNS) == library(expected, *COLUMNS)
    assert expected.num_rows < 500


def test_a_renamed_or_added_column_keeps_its_values(iceberg: IcebergTable) -> None:
    """The old user_id is called who; the new one is another column, of no values so far."""
    before = iceberg.current_snapshot()
    with iceberg.update_schema() as schema:
        schema.rename_column("user_id", "who")
    with iceberg.update_schema() as schema:
        schema.add_column("user_id", iceberg.schema().find_type("who"))
    more = rows(500, 520)
    iceberg.append(more.append_column("who", pa.array([99] * 20)))
    path = folder_of(iceberg)
    for columns in (("who", "user_id", "time"), ("user_id", "item_id")):
        assert read(path, *columns) == library(iceberg.scan().to_arrow(), *columns)
    assert before is not None
    old = iceberg.scan(snapshot_id=before.snapshot_id).to_arrow()
    assert read(path, *COLUMNS, version=before.snapshot_id) == library(old, *COLUMNS)
    assert "column 'who' is missing" in refusal(path, "who", version=before.snapshot_id)


def test_columns_that_a_delta_table_got_later_are_null_before(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "log", rows(0, 10))
    more = rows(10, 20).append_column("shop", pa.array([7] * 10))
    write_deltalake(tmp_path / "log", more, mode="append", schema_mode="merge")
    expected = DeltaTable(tmp_path / "log").to_pyarrow_table()
    assert read(tmp_path / "log", "time", "shop") == library(expected, "time", "shop")


def with_deletion_vector(folder: Path, deleted: range) -> None:
    """A version that hides rows of the only file, as Spark writes it (the format's inline form)."""
    write_deltalake(folder, rows(0, 100))
    log = folder / "_delta_log"
    lines = (log / "00000000000000000000.json").read_text().splitlines()
    add = next(action["add"] for action in map(json.loads, lines) if "add" in action)
    bits = struct.pack("<IQI", 1681511377, 1, 0) + BitMap(deleted).serialize()
    padded = bits + bytes(-len(bits) % 4)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": base64.b85encode(padded).translate(Z85).decode(),
        "sizeInBytes": len(bits),
        "cardinality": len(deleted),
    }
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    gone = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True, "size": add["size"]}
    actions = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
        {"remove": gone},
        {"add": {**add, "deletionVector": vector}},
        {"commitInfo": {"timestamp": 1, "operation": "DELETE"}},
    ]
    text = "\n".join(map(json.dumps, actions))
    (log / "00000000000000000001.json").write_text(text)


DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
Z85 = bytes.maketrans(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
    DIGITS.encode() + b".-:+=^!/*?&<>()[]{}@%$#",
)


def test_rows_that_a_deletion_vector_hides_stay_away(tmp_path: Path) -> None:
    with_deletion_vector(tmp_path / "log", range(10, 30))
    found = QueryBuilder().register("t", DeltaTable(tmp_path / "log")).execute("SELECT * FROM t")
    expected = pa.RecordBatchReader.from_stream(found).read_all()
    assert expected.num_rows == 80
    assert read(tmp_path / "log", *COLUMNS) == library(expected, *COLUMNS)
    seconds = {int(row[0].timestamp()) for row in read(tmp_path / "log", "time")}
    assert seconds == set(range(100)) - set(range(10, 30))


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_span_is_of_the_tables_partitions(
    kind: str, tmp_path: Path, iceberg: IcebergTable
) -> None:
    path = tmp_path / "log" if kind == "delta" else folder_of(iceberg)
    if kind == "delta":
        delta(path)
    everything = read(path, *COLUMNS)
    low, high = dt.date(2026, 11, 2), dt.date(2026, 11, 3)
    expected = [row for row in everything if low <= row[3] <= high]
    assert 0 < len(expected) < len(everything)
    assert read(path, *COLUMNS, first="2026-11-02", last="day=2026-11-03") == expected
    for damaged in path.rglob("day=2026-11-01/*.parquet"):
        damaged.write_bytes(b"not opened")
    assert read(path, *COLUMNS, first="2026-11-02", last="day=2026-11-03") == expected
    words = "'noon' is no date, as the values of 'day' are: write one"
    assert words in refusal(path, first="noon")
    assert "no row lies within --from and --to" in refusal(path, first="2027-01-01")
    assert "its partitions are of day: write e.g. --from day=VALUE" in refusal(path, first="hour=1")


SPANS: list[tuple[str | None, str | None, list[int]]] = [
    ("hour=2026-11-01", "hour=2026-11-02", [0, 1, 2, 3]),
    (None, "hour=2026-11-01", [0, 1]),
    ("hour=2026-11-01-13", "hour=2026-11-02-00", [1, 2]),
    ("hour=2026-11-02/part=b", None, [2, 3, 4]),
    ("hour=2026-11-02-00/part=b", None, [3, 4]),
    (None, "hour=2026-11-02/part=a", [0, 1, 2, 3]),
    (None, "hour=2026-11-02-05/part=a", [0, 1, 2]),
]


@pytest.mark.parametrize("kind", ["folders", "delta", "iceberg"])
def test_a_text_lies_in_what_it_begins_with(kind: str, tmp_path: Path) -> None:
    """In tables as in folders; the partition without a value lies in no span."""
    hours = [
        "2026-11-01-00",
        "2026-11-01-13",
        "2026-11-02-00",
        "2026-11-02-05",
        "2026-11-03-00",
        None,
    ]
    parts = ["a", "a", "a", "b", "b", "b"]
    table = pa.table({"user_id": range(6), "hour": hours, "part": parts})
    path, by = tmp_path / "log", ["hour", "part"]
    if kind == "folders":
        pq.write_to_dataset(table, path, partition_cols=by)
    elif kind == "delta":
        write_deltalake(path, table, partition_by=by)
    else:
        catalog = SqlCatalog("c", uri="sqlite://", warehouse=f"file://{tmp_path}")
        catalog.create_namespace("ns")
        ice = catalog.create_table("ns.log", schema=table.schema)
        with ice.update_spec() as spec:
            spec.add_identity("hour")
            spec.add_identity("part")
        ice.append(table)
        path = folder_of(ice)
    for first, last, expected in SPANS:
        found = [row[0] for row in read(path, "user_id", first=first, last=last)]
        assert found == expected, (first, last)


def test_a_version_stays_what_it_is_while_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iceberg: IcebergTable
) -> None:
    """Rows come, go and are cleaned up between the reading of the table and that of its rows."""
    delta(tmp_path / "log")
    check = stages.reject_bad_rows

    def changed(*arguments: Any) -> Any:
        write_deltalake(tmp_path / "log", rows(500, 900), mode="append")
        DeltaTable(tmp_path / "log").delete("user_id = 1")
        DeltaTable(tmp_path / "log").vacuum(0, dry_run=False, enforce_retention_duration=False)
        iceberg.append(rows(500, 900))
        return check(*arguments)

    for path in (tmp_path / "log", folder_of(iceberg)):
        before = read(path, "user_id", "item_id", "time")
        with monkeypatch.context() as patch:
            patch.setattr(stages, "reject_bad_rows", changed)
            made = Prepared(ParquetLog(interactions=path, out=tmp_path / "out", overwrite=True))
        found = made.triples("train") + made.triples("test")
        expected = [(user, item, int(at.timestamp() * 10**6)) for user, item, at in before]
        assert sorted(found) == sorted(expected)


def test_the_command_reads_a_stated_version_and_records_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delta(tmp_path / "log")
    words = ["parquet", "--interactions", str(tmp_path / "log"), "--out", str(tmp_path / "out")]
    for more, version in ((["--version", "2"], 2), (["--overwrite"], 4)):
        schema = prepare(parse("prepare", SOURCES, [*words, *more]))
        assert f"{tmp_path}/log: Delta version {version}" in schema.notes
        assert f"{tmp_path}/log: Delta version {version}" in capsys.readouterr().err
        expected = DeltaTable(tmp_path / "log", version=version).to_pyarrow_table()
        assert schema.rows_read == expected.num_rows


def test_items_and_users_may_be_tables_too(tmp_path: Path) -> None:
    pq.write_table(rows(0, 70), tmp_path / "log.parquet")
    items, users = tmp_path / "items", tmp_path / "users"
    write_deltalake(
        items, pa.table({"item_id": [f"i{n}" for n in range(5)], "shelf": list("abcde")})
    )
    DeltaTable(items).update(updates={"shelf": "'z'"})
    write_deltalake(
        users, pa.table({"user_id": list(range(7)), "age": [1.5 * n for n in range(7)]})
    )
    for version, shelf in ((0, "b"), (None, "z")):
        options = ParquetLog(
            interactions=tmp_path / "log.parquet",
            out=tmp_path / f"out{version}",
            items=items,
            items_version=version,
            users=users,
            category="shelf",
            user_features=("age",),
        )
        assert Prepared(options).attributes("i1", "shelf") == (shelf,)


def test_what_a_library_cannot_read_is_one_line(tmp_path: Path, iceberg: IcebergTable) -> None:
    log, ice = tmp_path / "log", folder_of(iceberg)
    delta(log)
    assert "version 9: deltalake cannot read the table (" in refusal(log, version=9)
    assert "--version -1: versions of Delta count from 0" in refusal(log, version=-1)
    assert "--version 5: " in refusal(ice, version=5)
    assert "has no such snapshot: its last ones are" in refusal(ice, version=5)
    assert "column 'who' is missing: it has user_id, item_id, time, day" in refusal(log, "who")
    assert "is a table of Delta, beside other paths: name it alone" in refusal([log, ice])
    pq.write_table(rows(0, 5), tmp_path / "a.parquet")
    words = "a.parquet: is no table of Delta or Iceberg: leave it out"
    assert words in refusal(tmp_path / "a.parquet", version=3)
    for file in log.rglob("*.parquet"):
        file.unlink()
    options = ParquetLog(interactions=log, out=tmp_path / "out")
    refused(options, f"{log} (Delta version 4): deltalake cannot read the table (")
    for file in ice.rglob("*.parquet"):
        file.write_bytes(b"PAR1")
    options = ParquetLog(interactions=ice, out=tmp_path / "out")
    refused(options, f"{ice} (Iceberg snapshot ", "pyiceberg cannot read the table (")
    (log / "_delta_log" / "00000000000000000000.json").write_text("rubbish")
    assert f"{log}: deltalake cannot read the table (" in refusal(log)
    odd = tmp_path / "log[1]"
    log.rename(odd)
    assert "the path holds '[', which deltalake cannot read: rename it" in refusal(odd)


def test_a_table_is_named_in_a_catalog_of_the_configuration(
    tmp_path: Path, iceberg: IcebergTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__C__URI", f"sqlite:///{tmp_path}/c.db")
    # Read once, when pyiceberg is imported.
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
    expected = iceberg.scan().to_arrow()
    assert read(Path("ns.log"), *COLUMNS, catalog="c") == library(expected, *COLUMNS)
    options = ParquetLog(interactions=Path("ns.log"), out=tmp_path / "out", catalog="c")
    before = made_of(options)
    schema = prepare(options)
    assert schema.rows_read == expected.num_rows
    snapshot = iceberg.current_snapshot()
    assert snapshot is not None
    assert f"ns.log: Iceberg snapshot {snapshot.snapshot_id}" in schema.notes
    iceberg.append(rows(0, 1))
    assert made_of(options) != before
    words = "ns.none: pyiceberg cannot read the table ("
    assert refusal(Path("ns.none"), catalog="c").startswith(words)
    assert refusal(Path("ns.log"), catalog="none").startswith("ns.log: pyiceberg cannot read the")


def test_two_newest_metadata_files_are_refused_and_each_may_be_named(
    iceberg: IcebergTable,
) -> None:
    """As a writer leaves it who lost the race to the catalog."""
    path = folder_of(iceberg)
    newest = Path(iceberg.metadata_location.removeprefix("file://"))
    orphan = newest.with_name(
        f"{newest.name[:5]}-00000000-0000-0000-0000-000000000000.metadata.json"
    )
    orphan.write_bytes(newest.read_bytes())
    assert "two metadata files are the newest" in refusal(path)
    assert refusal(path).endswith(f"name that file: {max(newest, orphan)}")
    assert read(newest, *COLUMNS) == library(iceberg.scan().to_arrow(), *COLUMNS)


def test_a_hudi_table_is_refused_with_the_cure(tmp_path: Path) -> None:
    pq.write_table(rows(0, 5), tmp_path / "a.parquet")
    (tmp_path / ".hoodie").mkdir()
    assert refusal(tmp_path) == (
        f"{tmp_path}: belongs to a table of Hudi, whose files hold deleted rows too: dat-rec reads "
        "none of Hudi: export a snapshot and name that: in Spark: "
        f"spark.read.format('hudi').load('{tmp_path}').write.parquet('{tmp_path.name}.parquet')"
    )


@pytest.mark.parametrize(("kind", "extra"), [("Delta", "delta"), ("Iceberg", "iceberg")])
def test_without_its_library_a_table_is_refused_with_the_cure(
    kind: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = "_delta_log/0.json" if kind == "Delta" else "metadata/v1.metadata.json"
    (tmp_path / mark).parent.mkdir()
    (tmp_path / mark).write_text("{}")
    for name in ("deltalake", "pyiceberg.table", "pyiceberg.io.pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refusal(tmp_path).endswith(f"reads: pip install 'dat_rec[{extra}]'")
