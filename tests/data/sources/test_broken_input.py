"""Broken, drifting and partial logs: refused with the file's name, or counted and read on.

Three parts of one log, of which the second one is odd. A kind that is refused leaves nothing where
the dataset would stand; of one that is read, the rows are those of the good parts, and of the odd
one what is good.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import Prepared, refused

ROWS = 40
"""Of each part."""
BIG = 2**60


@dataclass(frozen=True)
class Kind:
    """One kind of odd input."""

    make: Callable[[Path], Any]
    """Makes the second part in the log's folder, odd."""
    says: str
    """A refusal, with LOG for the folder; or, of what is read, a line on stderr."""
    reads: int | None = None
    """Number of rows that are read, the rejected ones included; None: it is refused."""
    rejected: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def rows(part: int, **columns: Any) -> pa.Table:
    numbers = range(part * ROWS, (part + 1) * ROWS)
    table = {
        "user_id": [n % 6 for n in numbers],
        "item_id": [n % 5 for n in numbers],
        "time": list(numbers),
    }
    return pa.table({**table, **columns})


def put(name: str = "b.parquet", part: int = 1, **columns: Any) -> Callable[[Path], Any]:
    """A part with other columns."""

    def make(log: Path) -> None:
        (log / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(part, **columns), log / name)

    return make


def spoil(change: Callable[[bytes], bytes], name: str = "b.parquet") -> Callable[[Path], Any]:
    """A part whose bytes are changed."""

    def make(log: Path) -> None:
        put()(log)
        content = (log / "b.parquet").read_bytes()
        (log / "b.parquet").unlink()
        (log / name).parent.mkdir(parents=True, exist_ok=True)
        (log / name).write_bytes(change(content))

    return make


def lose_pages(content: bytes) -> bytes:
    footer = int.from_bytes(content[-8:-4], "little") + 8
    return content[:4] + bytes(len(content) - footer - 4) + content[-footer:]


def spoil_footer(content: bytes) -> bytes:
    return content[:-40] + b"\x99" * 32 + content[-8:]


def one(value: Any, column: str = "user_id") -> dict[str, Any]:
    """The part's column with another value in its third row."""
    values = rows(1)[column].to_pylist()
    values[2] = value
    return {column: values}


def all_parts(**columns: Any) -> Callable[[Path], Any]:
    """All three parts with other columns."""

    def make(log: Path) -> None:
        for part, name in enumerate("abc"):
            pq.write_table(rows(part, **columns), log / f"{name}.parquet")

    return make


def without(column: str) -> Callable[[Path], Any]:
    return lambda log: pq.write_table(rows(1).drop_columns([column]), log / "b.parquet")


def moments(first: int, unit: int = 10**6) -> pa.Array:
    """Times as timestamps of microseconds, ``unit`` apart."""
    return pa.array([first + n * unit for n in range(ROWS)], pa.timestamp("us"))


IN_2026 = 1_770_000_000
DAY = {"time": "day", "split": "random"}
OTHERS = 2 * ROWS

KINDS = {
    # broken
    "empty": Kind(spoil(lambda _: b""), "LOG/b.parquet: is empty (0 bytes), as a write that broke"),
    "cut": Kind(spoil(lambda old: old[:300]), "LOG/b.parquet: is cut short, its last bytes are"),
    "begun late": Kind(spoil(lambda old: old[300:]), "LOG/b.parquet: is no Parquet (it begins wi"),
    "pages lost": Kind(spoil(lose_pages), "LOG/b.parquet: is damaged ("),
    "bytes flipped": Kind(
        spoil(lambda old: old[:40] + bytes(255 - x for x in old[40:60]) + old[60:]),
        "LOG/b.parquet: is damaged (",
    ),
    "footer spoilt": Kind(spoil(spoil_footer), "LOG/b.parquet: cannot be read as Parquet ("),
    "footer's length": Kind(
        spoil(lambda old: old[:-8] + b"\xff\xff\xff\x7f" + old[-4:]),
        "LOG/b.parquet: cannot be read as Parquet (",
    ),
    "encrypted": Kind(spoil(lambda old: b"PARE" + old[4:-4] + b"PARE"), "is encrypted Parquet"),
    "pointer": Kind(spoil(lambda _: b"version https://git-lfs"), "b.parquet: is a pointer of Git"),
    "web page": Kind(spoil(lambda _: b"<html>AccessDenied"), "b.parquet: is HTML or XML, no Parqu"),
    "text": Kind(spoil(lambda _: b"user_id,item_id\n1,2\n"), "b.parquet: is text, no Parquet: con"),
    "dangling link": Kind(
        lambda log: (log / "b.parquet").symlink_to(log / "gone"),
        "LOG/b.parquet: No such file or directory: correct the path",
    ),
    # drifting
    "column gone": Kind(without("time"), "LOG/b.parquet: column 'time' is missing: it has user_id"),
    "column renamed": Kind(
        lambda log: pq.write_table(rows(1).rename_columns(["User", "item_id", "time"]), log / "b"),
        "LOG/b: column 'user_id' is missing: it has User, item_id, time",
    ),
    "two of a name": Kind(
        put(USER_ID=[0] * ROWS), "b.parquet: the columns 'user_id' and 'USER_ID' have one name"
    ),
    "text for integers": Kind(
        put(user_id=[f"{n:03}" for n in range(ROWS)]),
        "LOG/b.parquet: column 'user_id' is string, and int64 in LOG/a.parquet",
    ),
    "floats for integers": Kind(
        put(item_id=[n + 0.6 for n in range(ROWS)]),
        "LOG/b.parquet: column 'item_id' is double, and int64 in LOG/a.parquet",
    ),
    "unsigned for signed": Kind(
        put(item_id=pa.array([2**64 - 1] * ROWS, pa.uint64())),
        "LOG/b.parquet: column 'item_id' is uint64, and int64 in LOG/a.parquet",
    ),
    "timestamps for integers": Kind(
        put(time=moments(IN_2026)), "LOG/b.parquet: column 'time' is timestamp[us], and int64 in"
    ),
    "seconds and dates": Kind(
        put(time=pa.array([dt.date(2026, 1, 1)] * ROWS)), "column 'time' is date32[day], and int64"
    ),
    "narrow integers": Kind(put(user_id=pa.array([5] * ROWS, pa.int16())), "", 3 * ROWS),
    "columns more": Kind(put(device=["tv"] * ROWS), "", 3 * ROWS),
    "columns in another order": Kind(
        lambda log: pq.write_table(rows(1).select(["time", "item_id", "user_id"]), log / "b.pq"),
        "",
        3 * ROWS,
    ),
    "no rows": Kind(lambda log: pq.write_table(rows(1).slice(0, 0), log / "b.parquet"), "", OTHERS),
    "many without rows": Kind(
        lambda log: [
            pq.write_table(rows(1).slice(0, 0), log / f"b{n}.parquet") for n in range(3)
        ],
        "",
        OTHERS,
    ),
    # cut by a cast
    "fractions as ids": Kind(
        all_parts(user_id=[3.0] * 39 + [3.6]),
        "LOG/a.parquet: row 40: user_id 3.6 is no whole number",
    ),
    "floats beyond their integers": Kind(
        all_parts(user_id=[2.0**53] * ROWS), "is a float of 9007199254740992 or more, where two ids"
    ),
    "decimals as ids": Kind(
        all_parts(item_id=[Decimal("7.0")] * 39 + [Decimal("7.5")]),
        "LOG/a.parquet: row 40: item_id 7.5 is no whole number",
    ),
    "beyond int64": Kind(
        all_parts(item_id=pa.array([1] * 39 + [2**63], pa.uint64())),
        "LOG/a.parquet: row 40: item_id 9223372036854775808 is over 9223372036854775807",
    ),
    "nanoseconds": Kind(
        all_parts(time=pa.array([IN_2026 * 10**9 + n for n in range(ROWS)], pa.timestamp("ns"))),
        "LOG/a.parquet: row 2: time 2026-02-02 02:40:00.000000001 is finer than a microsecond, and",
    ),
    "seconds as microseconds": Kind(
        all_parts(time=moments(IN_2026, 1)),
        "LOG/a.parquet: row 1: time 1970-01-01 00:29:30 lies in 1970, as all times do: seconds or",
    ),
    "milliseconds as microseconds, of some rows": Kind(
        all_parts(
            time=pa.concat_arrays([moments(IN_2026 * 10**6)[:39], moments(IN_2026 * 1000)[:1]])
        ),
        "rejected: 3 rows: time in another form",
        3 * ROWS,
        {"time in another form": 3},
    ),
    "times that begin at 1970": Kind(
        lambda log: [
            pq.write_table(rows(part, time=moments(part * 10**9, 10**8)), log / f"{name}.parquet")
            for part, name in enumerate("abc")
        ],
        "",
        3 * ROWS,
    ),
    # bad rows
    "an id missing": Kind(
        put(**one(None)), "rejected: 1 rows: missing user_id", 3 * ROWS, {"missing user_id": 1}
    ),
    "an id below 0": Kind(
        put(**one(-1, "item_id")), "negative item_id", 3 * ROWS, {"negative item_id": 1}
    ),
    "a time missing": Kind(
        put(**one(None, "time")), "unparsable time", 3 * ROWS, {"unparsable time": 1}
    ),
    # partial
    "in writing": Kind(
        spoil(lambda old: old[:300], "b.parquet.inprogress.8f3a"),
        "LOG: not read, as their names say that they are unfinished: b.parquet.inprogress.8f3a",
        OTHERS,
    ),
    "being copied": Kind(
        spoil(lambda old: old, "b.parquet._COPYING_"), "are unfinished: b.parquet._COPYING_", OTHERS
    ),
    "of a job that died": Kind(
        put("_temporary/0/task/b.parquet"), "LOG/_temporary: a job writes here, or died", OTHERS
    ),
    "beside checksums": Kind(spoil(lambda old: old[:8], ".b.parquet.crc"), "", OTHERS),
    "twice": Kind(
        put(part=0), "LOG/b.parquet: has the size and footer of LOG/a.parquet: if it", 3 * ROWS
    ),
    "linked twice": Kind(
        lambda log: (log / "b.parquet").symlink_to("a.parquet"),
        "LOG/b.parquet: leads to the same file as LOG/a.parquet: read once",
        OTHERS,
    ),
    "of another kind": Kind(
        spoil(lambda _: b"hi", "README.md"), "as they are no Parquet by name: README.md", OTHERS
    ),
    "outside the folders": Kind(
        put("day=2/b.parquet"), "LOG/a.parquet: column 'day' is missing, and no folder above it",
        options=DAY,
    ),
    "folder against file": Kind(
        put("user_id=7/b.parquet"),
        "LOG/user_id=7/b.parquet: row 1: column 'user_id' is 4, and its folder says user_id=7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_an_odd_part_is_refused_by_name_or_counted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, log = KINDS[name], tmp_path / "log"
    log.mkdir()
    for part, letter in ((0, "a"), (2, "c")):
        pq.write_table(rows(part), log / f"{letter}.parquet")
    kind.make(log)
    options = ParquetLog(interactions=log, out=tmp_path / "out", **kind.options)
    says = kind.says.replace("LOG", str(log))
    if kind.reads is None:
        refused(options, says)
        return
    if kind.rejected:
        strict = {**kind.options, "max_rejected": 0.0}
        cure = "remove the row"
        refused(ParquetLog(interactions=log, out=tmp_path / "out", **strict), ".parquet: row", cure)
        options = ParquetLog(interactions=log, out=tmp_path / "out", max_rejected=0.03)
    made = Prepared(options)
    err = capsys.readouterr().err
    assert says in err
    assert ("if it is a copy" in err) == (name == "twice")
    assert made.schema.rows_read == kind.reads
    assert made.schema.rejected == kind.rejected
    assert len(made.train) + len(made.test) == kind.reads - sum(kind.rejected.values())
