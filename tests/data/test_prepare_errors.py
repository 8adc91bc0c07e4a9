"""Bad input, no room, a kill: one line that says what, where and the cure; nothing left behind."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.kuairand import KuaiRand
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.errors import UserError

ROWS = 200


def good_columns() -> dict[str, dict[str, list[Any]]]:
    return {
        "log": {
            "user_id": [row % 20 for row in range(ROWS)],
            "item_id": [row % 17 for row in range(ROWS)],
            "time": list(range(ROWS)),
        },
        "items": {"item_id": list(range(17)), "dept": [f"d{row % 3}" for row in range(17)]},
        "users": {"user_id": list(range(20)), "age": [row % 4 for row in range(20)]},
    }


def write(folder: Path, columns: dict[str, dict[str, list[Any]]]) -> None:
    for name, table in columns.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet")


def run(folder: Path, **changes: Any) -> Schema:
    values: dict[str, Any] = {
        "out": folder / "out",
        "interactions": folder / "log.parquet",
        "items": folder / "items.parquet",
        "users": folder / "users.parquet",
        "category": "dept",
        "user_features": ("age",),
    }
    return prepare(ParquetLog(**{**values, **changes}))


def refused(folder: Path, *words: str, **changes: Any) -> None:
    """The error is one line that holds all words; neither the folder nor a part of it is left."""
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(UserError) as error:
        run(folder, **changes)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert {path.name for path in folder.iterdir()} == before


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


def test_unparsable_text_times_are_shown(tmp_path: Path) -> None:
    columns = good_columns()
    columns["log"]["time"] = [f"2024-01-01 00:{row // 60:02}:{row % 60:02}" for row in range(ROWS)]
    columns["log"]["time"][3] = "yesterday"
    write(tmp_path, columns)
    refused(tmp_path, "row 4", "unparsable time", "yesterday", max_rejected=0.0)
    assert run(tmp_path).rejected == {"unparsable time": 1}
    times = pq.read_table(tmp_path / "out" / "examples")["time"].to_pylist()
    assert min(times) == 1_704_067_200_000_000


def test_the_first_bad_row_of_several_files_is_named(tmp_path: Path) -> None:
    columns = good_columns()
    write(tmp_path, columns)
    (tmp_path / "parts").mkdir()
    for name, place in (("a", None), ("b", 3)):
        log = {key: list(values) for key, values in columns["log"].items()}
        if place is not None:
            log["item_id"][place] = None
        pq.write_table(pa.table(log), tmp_path / "parts" / f"{name}.parquet")
    refused(tmp_path, "b.parquet: row 4", interactions=tmp_path / "parts", max_rejected=0.0)


@pytest.mark.parametrize("name", ["log", "items", "users"])
def test_a_missing_or_damaged_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, good_columns())
    path = tmp_path / f"{name}.parquet"
    whole = path.read_bytes()
    path.unlink()
    refused(tmp_path, str(path), "no such file")
    path.write_bytes(b"no parquet")
    refused(tmp_path, str(path))
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, str(path))
    path.write_bytes(b"")
    refused(tmp_path, str(path))


@pytest.mark.parametrize(
    ("table", "column"),
    [("log", "time"), ("items", "dept"), ("users", "user_id"), ("users", "age")],
)
def test_a_missing_column(tmp_path: Path, table: str, column: str) -> None:
    columns = good_columns()
    columns[table]["else"] = columns[table].pop(column)
    write(tmp_path, columns)
    refused(tmp_path, f"{table}.parquet", repr(column), "missing")


def test_wrong_types(tmp_path: Path) -> None:
    columns = good_columns()
    write(
        tmp_path,
        {**columns, "users": {"user_id": [str(row) for row in range(20)], "age": [1] * 20}},
    )
    refused(tmp_path, "user_id is BIGINT in the interactions and VARCHAR in the users table")
    write(tmp_path, {**columns, "log": {**columns["log"], "time": [True] * ROWS}})
    refused(tmp_path, "log.parquet: time 'time' is true or false", "--time")
    halves: dict[str, list[Any]] = {"user_id": [row + 0.5 for row in range(20)], "age": [1] * 20}
    log = {**columns["log"], "user_id": [0.5] * ROWS}
    write(tmp_path, {**columns, "users": halves, "log": log})
    refused(tmp_path, "log.parquet: row 1: user_id 0.5 is no whole number")
    write(tmp_path, {**columns, "log": {**columns["log"], "good": ["yes"] * ROWS}})
    refused(tmp_path, "label 'good' is text", "--positive-labels; it holds yes", label="good")


def test_empty_inputs(tmp_path: Path) -> None:
    columns = good_columns()
    empty = {name: pa.array([], pa.int64()) for name in columns["log"]}
    write(tmp_path, columns)
    pq.write_table(pa.table(empty), tmp_path / "log.parquet")
    refused(tmp_path, "interactions are empty")
    write(tmp_path, {**columns, "log": {**columns["log"], "time": [7] * ROWS}})
    refused(tmp_path, "no interaction is left to train on")
    write(tmp_path, columns)
    refused(tmp_path, "no interaction is left to train on", test_from="-5")


def test_options_that_contradict(tmp_path: Path) -> None:
    write(tmp_path, good_columns())
    refused(tmp_path, "--history-length 0", history_length=0)
    refused(tmp_path, "--max-rejected 2", max_rejected=2.0)
    refused(tmp_path, "test share 1.5", test_share=1.5)
    refused(tmp_path, "--test-from noon", test_from="noon")
    refused(tmp_path, "--memory-limit much", memory_limit="much")
    refused(tmp_path, "--items", items=None)
    refused(tmp_path, "--users", users=None)
    refused(tmp_path, "--numbers height", numbers=("height",))
    refused(tmp_path, "is the category already", item_features=("dept",))
    refused(tmp_path, "holds the input", out=tmp_path, overwrite=True)
    refused(tmp_path, "holds the input", out=tmp_path / "log.parquet", overwrite=True)


def test_a_reserved_name(tmp_path: Path) -> None:
    columns = good_columns()
    columns["users"]["history"] = columns["users"].pop("age")
    write(tmp_path, columns)
    refused(tmp_path, "'history'", "reserved", user_features=("history",))


def test_one_name_on_both_sides(tmp_path: Path) -> None:
    columns = good_columns()
    columns["users"]["dept"] = columns["users"].pop("age")
    write(tmp_path, columns)
    refused(tmp_path, "'dept'", "rename", user_features=("dept",))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    write(tmp_path, good_columns())
    refused(tmp_path, "log.parquet", out=tmp_path / "log.parquet" / "out")


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


def test_a_log_alone(tmp_path: Path) -> None:
    write(tmp_path, good_columns())
    schema = run(tmp_path, items=None, users=None, category=None, user_features=())
    assert (schema.users, schema.items, schema.category) == (20, 17, "category")
    assert schema.feature("category").rows == 1


def test_kuairand_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name the folder of KuaiRand-Pure"):
        prepare(KuaiRand(path=tmp_path, out=tmp_path / "out"))


PROGRAM = """
import sys
from pathlib import Path
from dat_rec.data.prepare import prepare
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


STAGE_FILES = ["work/duckdb", "work/sequence.int32", "users.parquet", "examples/part-00000.parquet"]


@pytest.mark.parametrize("name", STAGE_FILES)
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


@pytest.mark.parametrize("name", STAGE_FILES)
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
