"""Files that change while they are read: named, and nothing half-read is kept."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare import stages
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.pins import pin
from tests.data.sources.prepared import Prepared, refused


def log(path: Path, first: int = 0, rows: int = 60) -> None:
    numbers = range(first, first + rows)
    columns = {"user_id": [n % 6 for n in numbers], "item_id": [n % 5 for n in numbers]}
    table = pa.table({**columns, "time": list(numbers)})
    # So many bytes whatever the values.
    pq.write_table(table, path, use_dictionary=False, compression="none")


def when_read(monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any]) -> None:
    """Let a writer at work: between the listing of the files and the reading of their rows."""
    check = stages.reject_bad_rows

    def changed(*arguments: Any) -> Any:
        change()
        return check(*arguments)

    monkeypatch.setattr(stages, "reject_bad_rows", changed)


def anew(path: Path) -> None:
    log(path.with_name("new"), 1)
    path.with_name("new").rename(path)


def in_place(path: Path) -> None:
    """The same size, and the same time, but other rows."""
    before = path.stat()
    log(path, 1)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (anew, "was written anew while it was read"),
        (in_place, "was written anew while it was read"),
        (cut, "was written anew ("),
        (Path.unlink, "was removed while it was read: begin again when nothing writes there"),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_named(
    change: Callable[[Path], Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "log").mkdir()
    for name in "abc":
        log(tmp_path / "log" / f"{name}.parquet")
    when_read(monkeypatch, lambda: change(tmp_path / "log" / "b.parquet"))
    options = ParquetLog(interactions=tmp_path / "log", out=tmp_path / "out")
    message = refused(options, f"{tmp_path}/log/b.parquet: {words}")
    assert "a.parquet" not in message


def test_files_that_come_while_others_are_read_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    log(tmp_path / "log" / "a.parquet")
    when_read(monkeypatch, lambda: log(tmp_path / "log" / "b.parquet", 60))
    made = Prepared(ParquetLog(interactions=tmp_path / "log", out=tmp_path / "out"))
    assert len(made.train) + len(made.test) == 60


def test_a_pin_holds_the_schema_of_the_whole_file(tmp_path: Path) -> None:
    log(tmp_path / "a.parquet")
    found, opened = pin(tmp_path / "a.parquet")
    assert opened.schema == pq.read_schema(tmp_path / "a.parquet")
    assert opened.rows == 60
    assert found == pin(tmp_path / "a.parquet")[0]
