"""Bad input, no room, a kill: one line that says what, where and the cure; nothing left behind."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.errors import UserError
from tests.data.sources import prepared
from tests.data.sources.prepared import own

ROWS = 200
Tables = dict[str, dict[str, Any]]


def good_columns() -> Tables:
    return {
        "log": {
            "user_id": [row % 20 for row in range(ROWS)],
            "item_id": [row % 17 for row in range(ROWS)],
            "time": list(range(ROWS)),
        },
        "items": {"item_id": list(range(17)), "dept": [f"d{row % 3}" for row in range(17)]},
        "users": {"user_id": list(range(20)), "age": [row % 4 for row in range(20)]},
    }


def write(folder: Path, tables: Tables) -> None:
    for name, columns in tables.items():
        prepared.write(folder / f"{name}.parquet", **columns)


def options(folder: Path, **changes: Any) -> ParquetLog:
    tables = {"items": folder / "items.parquet", "users": folder / "users.parquet"}
    return own(folder, **{**tables, "category": "dept", "user_features": ("age",), **changes})


def run(folder: Path, **changes: Any) -> Schema:
    return prepare(options(folder, **changes))


def refused(folder: Path, *words: str, **changes: Any) -> None:
    """The error is one line that holds all words; neither the folder nor a part of it is left."""
    prepared.refused(options(folder, **changes), *words)


BAD_ROWS = [
    ("log", "user_id", None, "missing user_id", "nothing"),
    ("log", "item_id", None, "missing item_id", "nothing"),
    ("log", "time", None, "unparsable time", "nothing"),
    ("log", "user_id", -3, "negative user_id", "-3"),
    ("log", "item_id", -4, "negative item_id", "-4"),
    ("log", "item_id", 99, "item not in the catalogue", "99"),
    ("items", "item_id", 2, "duplicate item_id in items", "2"),
    ("items", "item_id", -1, "negative item_id in items", "-1"),
    ("users", "user_id", 1, "duplicate user_id in users", "1"),
    ("users", "user_id", None, "missing user_id in users", "nothing"),
]


@pytest.mark.parametrize(("table", "column", "value", "kind", "shown"), BAD_ROWS)
def test_bad_rows_stop_or_are_counted(
    tmp_path: Path, table: str, column: str, value: int | None, kind: str, shown: str
) -> None:
    columns = good_columns()
    columns[table][column][12] = value
    write(tmp_path, columns)
    refused(tmp_path, f"{table}.parquet: row 13", kind, f"value: {shown}", max_rejected=0.0)
    schema = run(tmp_path, max_rejected=0.5)
    assert schema.rejected[kind] == 1
    assert schema.rows_read == ROWS
    if table == "log":
        assert schema.examples + schema.tests == ROWS - 1
        assert schema.rejected == {kind: 1}


def test_the_limit_is_a_share_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = good_columns()
    columns["log"]["user_id"][5] = columns["log"]["user_id"][7] = None
    write(tmp_path, columns)
    refused(tmp_path, "row 6", "2 of 200 rows", "0.90%", "--max-rejected", max_rejected=0.009)
    capsys.readouterr()
    assert run(tmp_path, max_rejected=0.01).rejected == {"missing user_id": 2}
    assert "2 rows: missing user_id" in capsys.readouterr().err


def test_the_first_bad_row_of_several_files_is_named(tmp_path: Path) -> None:
    columns = good_columns()
    write(tmp_path, columns)
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts", {"a": columns["log"]})
    columns["log"]["item_id"][3] = None
    write(tmp_path / "parts", {"b": columns["log"]})
    refused(tmp_path, "b.parquet: row 4", interactions=tmp_path / "parts", max_rejected=0.0)


@pytest.mark.parametrize("name", ["log", "items", "users"])
def test_a_missing_or_damaged_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, good_columns())
    path = tmp_path / f"{name}.parquet"
    whole = path.read_bytes()
    path.unlink()
    refused(tmp_path, f"{path}: no such file")
    for content in (b"no parquet", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        refused(tmp_path, f"{path}: ")


@pytest.mark.parametrize(
    ("table", "column"),
    [("log", "time"), ("items", "dept"), ("users", "user_id"), ("users", "age")],
)
def test_a_missing_column(tmp_path: Path, table: str, column: str) -> None:
    columns = good_columns()
    columns[table]["else"] = columns[table].pop(column)
    write(tmp_path, columns)
    refused(tmp_path, f"{table}.parquet: column {column!r} is missing")


EMPTY = pa.array([], pa.int64())


@pytest.mark.parametrize(
    ("table", "columns", "words"),
    [
        ("users", {"user_id": [str(row) for row in range(20)]}, "user_id is BIGINT in the interac"),
        ("log", {"user_id": EMPTY, "item_id": EMPTY, "time": EMPTY}, "the interactions are empty"),
        ("items", {"item_id": EMPTY, "dept": EMPTY}, "the items are empty"),
        ("log", {"time": [7] * ROWS}, "no interaction is left to train on"),
    ],
)
def test_columns_that_make_no_dataset(
    tmp_path: Path, table: str, columns: dict[str, Any], words: str
) -> None:
    tables = good_columns()
    tables[table] |= columns
    write(tmp_path, tables)
    refused(tmp_path, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"history_length": 0}, "--history-length 0: must be at least 1"),
        ({"max_rejected": 2.0}, "--max-rejected 2.0: must lie between 0 and 1"),
        ({"test_share": 1.5}, "test share 1.5: must lie between 0 and 1"),
        ({"test_from": "noon"}, "--test-from noon: is no integer"),
        ({"test_from": "-5"}, "no interaction is left to train on"),
        ({"memory_limit": "much"}, "--memory-limit much: DuckDB refuses it"),
        ({"items": None}, "--category needs --items"),
        ({"items": None, "category": None, "title": "x"}, "--title needs --items"),
        ({"items": None, "category": None, "item_features": ("x",)}, "--item-features needs"),
        ({"users": None}, "--user-features needs --users"),
        ({"numbers": ("height",)}, "--numbers height: is not among the features"),
        ({"item_features": ("dept",)}, "--item-features dept: is the category already"),
        ({"user_features": ("history",)}, "attribute 'history': the name is reserved"),
        ({"user_features": ("age", "age")}, "feature 'age' is named twice: rename a column"),
    ],
)
def test_options_that_contradict(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    columns = good_columns()
    columns["users"] |= {"history": ["x"] * 20}
    write(tmp_path, columns)
    refused(tmp_path, words, **changes)


@pytest.mark.parametrize(
    ("out", "words"),
    [(".", "holds the input"), ("log.parquet", "holds the input"), ("log.parquet/out", "log.parq")],
)
def test_an_out_that_would_harm_the_input_is_refused(tmp_path: Path, out: str, words: str) -> None:
    write(tmp_path, good_columns())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=words):
        run(tmp_path, out=tmp_path / out, overwrite=words == "holds the input")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_old_dataset_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    columns = good_columns()
    write(tmp_path, columns)
    run(tmp_path)
    old = Schema.load(tmp_path / "out")
    refused(tmp_path, "--overwrite")
    columns["log"]["item_id"][3:9] = [None] * 6
    write(tmp_path, columns)
    refused(tmp_path, "missing item_id", overwrite=True)
    assert Schema.load(tmp_path / "out") == old
    assert run(tmp_path, overwrite=True, max_rejected=1.0).rejected == {"missing item_id": 6}


PROGRAM = """
import sys
from pathlib import Path
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
prepare(Synthetic(out=Path(sys.argv[1]), users=3000, items=500, interactions=int(sys.argv[2])))
"""


def start(out: Path, interactions: int, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), str(interactions)],
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


STARTED, ORDERED, WRITTEN = (
    "work/check.duckdb",
    "work/sequence.int32",
    "examples/part-00000.parquet",
)


@pytest.mark.parametrize("name", [STARTED, "users.parquet", WRITTEN])
def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    process = start(out, 300_000)
    wait_for(tmp_path / "out.partial" / name, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    for folder in tmp_path.iterdir():
        with pytest.raises(UserError, match="not a prepared dataset"):
            Schema.load(folder)
    prepare(Synthetic(out=out, users=50, items=20, interactions=500))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", [STARTED, ORDERED, WRITTEN])
def test_control_c_leaves_nothing(tmp_path: Path, name: str) -> None:
    process = start(tmp_path / "out", 300_000)
    wait_for(tmp_path / "out.partial" / name, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert "KeyboardInterrupt" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the write fails in the same place."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = start(tmp_path / "out", 300_000, preexec_fn=limit)
    _, errors = process.communicate()
    last = errors.strip().splitlines()[-1]
    assert "UserError" in last, errors
    assert "free the disk" in last or "room" in last
    assert process.returncode == 1
    assert list(tmp_path.iterdir()) == []
