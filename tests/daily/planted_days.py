"""A planted log of days in partitions, with new users and items on each; and ``daily`` on it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.prepare.chain import make_log

A_DAY = 300
"""Interactions of a day."""
COLUMNS = ("--category", "kind", "--item-features", "tags", "--user-features", "city")
TRAIN = (
    *("--batch-size", "128", "--model.embedding-dim", "8", "--model.output-dim", "8"),
    *("--model.hidden", "16", "--device", "cpu", "--checkpoint-every", "1"),
)
"""Small towers, and a checkpoint after each step."""


def write_log(folder: Path, days: int, seed: int = 0) -> dict[int, list[dict[str, Any]]]:
    """Write ``folder``/log/day=N, items.parquet and users.parquet; return each day's rows."""
    log = make_log(seed, days, a_day=A_DAY)
    rows = {day: log.days(day, day) for day in range(days)}
    for day, of_day in rows.items():
        write_day(folder, day, of_day)
    pq.write_table(pa.Table.from_pylist(log.items), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(log.users), folder / "users.parquet")
    return rows


def write_day(folder: Path, day: int, rows: list[dict[str, Any]]) -> None:
    """Write a partition of the log."""
    part = folder / "log" / f"day={day}"
    part.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), part / "part.parquet")


def log_options(folder: Path) -> tuple[str, ...]:
    """The options of ``prepare parquet`` for it."""
    tables = ("--items", f"{folder / 'items.parquet'}", "--users", f"{folder / 'users.parquet'}")
    return ("--interactions", f"{folder / 'log'}", *tables, *COLUMNS, "--threads", "1")


def daily_words(folder: Path, root: Path, first: int, last: int, *more: str) -> list[str]:
    """The command that walks the days."""
    days = ("--from", f"{first}", "--to", f"{last}")
    return ["daily", "--root", f"{root}", *days, *log_options(folder), *more, "--", *TRAIN]


def rows_of(root: Path) -> list[dict[str, Any]]:
    """The table of days."""
    rows: list[dict[str, Any]] = pq.read_table(root / "daily.parquet").to_pylist()
    return rows


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
