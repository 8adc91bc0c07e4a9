"""What a table tells since the dataset's version, and all of it at once: the same dataset."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table as IcebergTable

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.errors import NoRowsError
from tests.data.prepare.chain import facts_of
from tests.data.sources.prepared import refused
from tests.data.sources.test_tables_of_delta_and_iceberg import with_deletion_vector

ENABLED = {"delta.enableChangeDataFeed": "true"}


def rows(first: int, stop: int, note: str = "") -> pa.Table:
    numbers = range(first, stop)
    return pa.table(
        {
            "user_id": [n % 7 for n in numbers],
            "item_id": [f"i{n * n % 11}" for n in numbers],
            "time": list(numbers),
            "note": [note] * len(numbers),
            "day": [n // 50 for n in numbers],
        }
    )


class Log(Protocol):
    """A table that can be written to."""

    path: Path

    def append(self, table: pa.Table) -> None: ...
    def delete(self, where: str) -> None: ...
    def compact(self) -> None: ...
    def version(self) -> int: ...


class Delta:
    def __init__(self, folder: Path, configuration: Any = ENABLED) -> None:
        self.path = folder / "log"
        write_deltalake(self.path, rows(0, 60), configuration=configuration, partition_by=["day"])

    def append(self, table: pa.Table) -> None:
        write_deltalake(self.path, table, mode="append")

    def delete(self, where: str) -> None:
        DeltaTable(self.path).delete(where)

    def compact(self) -> None:
        assert DeltaTable(self.path).optimize.compact()["numFilesRemoved"] > 1

    def version(self) -> int:
        return DeltaTable(self.path).version()


class Iceberg:
    def __init__(self, folder: Path) -> None:
        self.catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/c", warehouse=f"file://{folder}/w")
        self.catalog.create_namespace("ns")
        self.table: IcebergTable = self.catalog.create_table("ns.log", schema=rows(0, 1).schema)
        with self.table.update_spec() as spec:
            spec.add_identity("day")
        self.table.append(rows(0, 60))
        self.path = Path(self.table.location().removeprefix("file://"))

    def append(self, table: pa.Table) -> None:
        self.table.append(table)

    def delete(self, where: str) -> None:
        self.table.delete(where)

    def compact(self) -> None:
        """The rows of all files in one: pyiceberg has no command for it."""
        self.table.overwrite(self.table.scan().to_arrow())

    def version(self) -> int:
        snapshot = self.table.current_snapshot()
        assert snapshot is not None
        return snapshot.snapshot_id


@pytest.fixture(params=[Delta, Iceberg])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    made: Log = request.param(tmp_path)
    return made


def options(log: Log, out: str, **changes: Any) -> ParquetLog:
    folder = log.path.parents[1] if log.path.parent.name == "ns" else log.path.parent
    given = {"split": "none", "trend": False, "sequence": None} | changes
    return ParquetLog(interactions=log.path, out=folder / out, **given)


def append(log: Log) -> None:
    log.append(rows(60, 90))
    log.append(rows(90, 100))


def append_and_compact(log: Log) -> None:
    log.append(rows(60, 90))
    log.compact()
    log.append(rows(90, 100))


def insert_and_delete(log: Log) -> None:
    log.append(rows(60, 90))
    log.delete("time >= 70 AND time < 80")
    log.compact() if isinstance(log, Iceberg) else log.append(rows(90, 91))
    log.delete("time = 61")


def equal_rows(log: Log) -> None:
    """Three, one of which goes by a change of what is not read, and comes again."""
    log.append(pa.concat_tables([rows(60, 61), rows(60, 61), rows(60, 61, "other")]))
    log.delete("note = 'other'")
    log.append(rows(60, 62, "again"))


def rewrite_old_ones(log: Log) -> None:
    """What is read of the old rows is as it was."""
    log.append(rows(60, 70))
    log.delete("time < 10")
    log.append(rows(0, 10, "rewritten"))


CHANGES = [append, append_and_compact, insert_and_delete, equal_rows, rewrite_old_ones]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_what_the_whole_table_has_more(log: Log, change: Callable[[Log], None]) -> None:
    schema = prepare(options(log, "before"))
    assert schema.table is not None
    assert schema.table.version == log.version()
    change(log)
    before = options(log, "before").out
    schema = prepare(options(log, "out", after=before))
    assert schema.table is not None
    assert schema.table.version == log.version()
    assert any("its changes since" in note for note in schema.notes)
    whole = prepare(options(log, "whole", train_from="60"))
    assert whole.table == schema.table
    assert (schema.examples, schema.past) == (whole.examples, whole.past)
    found, wanted = (facts_of(options(log, out).out, ties=True) for out in ("out", "whole"))
    assert found == wanted
    assert schema.rows_read == whole.examples


def test_day_after_day(log: Log) -> None:
    prepare(options(log, "0"))
    for day in (1, 2, 3):
        log.append(rows(50 + 10 * day, 60 + 10 * day))
        before = options(log, str(day - 1)).out
        assert prepare(options(log, str(day), after=before)).rows_read == 10
        log.compact()
    whole = options(log, "whole", train_from="80")
    prepare(whole)
    assert facts_of(options(log, "3").out, ties=True) == facts_of(whole.out, ties=True)


def test_old_rows_that_went_cannot_be_taken_back(log: Log) -> None:
    prepare(options(log, "before"))
    before = options(log, "before").out
    log.append(rows(60, 90))
    log.delete("time >= 50 AND time < 65")
    words = f"10 rows of {before} have been deleted or updated since", "prepare the whole table"
    refused(options(log, "out", after=before), *words)


def test_nothing_new_is_no_rows(log: Log) -> None:
    prepare(options(log, "before"))
    after = options(log, "out", after=options(log, "before").out)
    with pytest.raises(NoRowsError, match="follows"):
        prepare(after)
    log.append(rows(60, 70))
    log.delete("time >= 60")
    with pytest.raises(NoRowsError, match="no row is new"):
        prepare(after)


def test_what_was_read_in_part_names_no_version(log: Log, tmp_path: Path) -> None:
    assert prepare(options(log, "cut", test_until="50")).table is None
    assert "table" not in json.loads((options(log, "cut").out / "schema.json").read_text())
    words = "late: before the end of the dataset of --after"
    refused(options(log, "out", after=options(log, "cut").out), words)
    # Another table is read whole, as ever.
    prepare(options(log, "before"))
    other = Delta(tmp_path / "other")
    write_deltalake(other.path, rows(60, 80), mode="overwrite")
    made = replace(options(log, "out", after=options(log, "before").out), interactions=other.path)
    assert prepare(made).rows_read == 20


def test_a_feed_that_is_not_enabled(tmp_path: Path) -> None:
    log = Delta(tmp_path, configuration=None)
    prepare(options(log, "before"))
    before = options(log, "before").out
    log.append(rows(60, 70))
    words = "its change feed is not enabled in all versions after 0: set delta.enableChangeDataFeed"
    refused(options(log, "out", after=before), words, "--from and --to, or prepare the whole")
    prepare(options(log, "next"))
    DeltaTable(log.path).alter.set_table_properties(ENABLED)
    log.append(rows(70, 80))
    schema = prepare(options(log, "out", after=options(log, "next").out))
    assert schema.rows_read == 10
    DeltaTable(log.path).alter.set_table_properties({"delta.enableChangeDataFeed": "false"})
    log.append(rows(80, 90))
    words = "its change feed is not enabled in all versions after 3"
    refused(options(log, "no", after=options(log, "out").out), words)
    refused(options(log, "no", after=options(log, "out").out, version=1), "is read at version 1")


def test_deletion_vectors_are_refused(tmp_path: Path) -> None:
    with_deletion_vector(tmp_path / "log", range(10, 30))
    made = ParquetLog(interactions=tmp_path / "log", out=tmp_path / "before", version=0)
    prepare(made)
    after = replace(made, version=1, after=made.out, out=tmp_path / "out")
    refused(after, "has deletion vectors, with which deltalake's change feed does not tell all")


def test_an_expired_snapshot(tmp_path: Path) -> None:
    log = Iceberg(tmp_path)
    schema = prepare(options(log, "before"))
    log.append(rows(60, 70))
    assert schema.table is not None
    log.table.maintenance.expire_snapshots().by_id(schema.table.version).commit()
    words = f"has expired snapshot {schema.table.version}, which --after was made of"
    refused(options(log, "out", after=options(log, "before").out), words)


def test_a_snapshot_before_the_datasets(tmp_path: Path) -> None:
    log = Iceberg(tmp_path)
    first = log.version()
    log.append(rows(60, 90))
    before = options(log, "before")
    schema = prepare(before)
    assert schema.table is not None
    words = f"snapshot {schema.table.version}, which --after was made of, does not precede {first}"
    refused(options(log, "out", after=before.out, version=first), words, "name a later one")


def test_a_log_that_was_cleaned(tmp_path: Path) -> None:
    """As Delta does by itself after 30 days: a checkpoint stands for the versions before it."""
    log = Delta(tmp_path)
    prepare(options(log, "before"))
    for number in range(6, 9):
        log.append(rows(number * 10, number * 10 + 10))
    DeltaTable(log.path).create_checkpoint()
    for version in range(log.version()):
        (log.path / "_delta_log" / f"{version:020}.json").unlink()
    words = ("no longer has version 0 in its log", "name partitions by --from and --to")
    refused(options(log, "out", after=options(log, "before").out), *words)
