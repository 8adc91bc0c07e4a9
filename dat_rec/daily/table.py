"""``ROOT/daily.parquet``: a row for each day, its line on the screen, and the figures in both."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dat_rec.daily.root import Day
from dat_rec.daily.steps import STEPS
from dat_rec.data.schema import Schema
from dat_rec.errors import UserError
from dat_rec.files import read_json, whole_file
from dat_rec.runs.figures import BLOCKS, CUTOFFS, figure

COUNTS = ("examples", "users", "items", "new_users", "new_items")
"""Examples of the day; its trained users and items, and how many of them the day before had not."""
FIGURES = [f"{block}/{name}" for block in BLOCKS for name in CUTOFFS]
"""As in ``all/HR@100``: block and figure of metrics.json."""
QUERIES = [f"{block}/queries" for block in BLOCKS]
SECONDS = [f"{step}_s" for step in STEPS]
TABLE_SCHEMA = pa.schema(
    [
        ("day", pa.string()),
        *((name, pa.int64()) for name in COUNTS),
        *((name, pa.int64()) for name in QUERIES),
        *((name, pa.float64()) for name in FIGURES),
        *((name, pa.float64()) for name in SECONDS),
    ]
)
ANEW = (
    "remove it and start again: it is made anew of the days' folders, and what they lack is done "
    "again, as are days that --keep has removed"
)
"""What helps where the table is damaged, or says of a day that it is done, and it no longer is."""
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The days that are done, in order; none without a file.

    Raises:
        UserError: the file is no such table.
    """
    if not path.exists():
        return []
    try:
        table = pq.read_table(path, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is no table of days ({error}): {ANEW}") from error
    if table.schema.names != TABLE_SCHEMA.names:
        raise UserError(f"{path}: is a table of other columns: {ANEW}")
    rows: list[Row] = table.to_pylist()
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write the table anew, whole or not at all."""
    with whole_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, TABLE_SCHEMA), partial)


def row_of(day: Day, before: Day | None) -> Row:
    """The row of a day whose steps are all done."""
    schema = Schema.load(day.data)
    row: Row = {"day": day.name, "examples": schema.examples}
    for side in ("user", "item"):
        ids = _trained(day.data, side)
        known = None if before is None else _trained(before.data, side)
        row[f"{side}s"] = len(ids)
        row[f"new_{side}s"] = len(ids) - (0 if known is None else _common(ids, known))
    if before is not None:
        metrics = read_json(day.metrics, "the figures of the model before")
        for block in BLOCKS:
            row |= {f"{block}/{name}": metrics[block][name] for name in (*CUTOFFS, "queries")}
    return row | {f"{step}_s": took for step, took in day.seconds().items()}


def empty_row(day: Day) -> Row:
    """The row of a day without interactions."""
    return {"day": day.name, "examples": 0}


def waiting_row(day: Day, before: Row) -> Row:
    """The row of a day whose interactions all wait for more of their users and items.

    Args:
        day: the next one that is trained on reads its interactions again.
        before: the row of the last day that was trained on, whose model stays.
    """
    stays = {name: before[name] for name in ("users", "items")}
    return empty_row(day) | stays | {"new_users": 0, "new_items": 0}


def waits(row: Row) -> bool:
    """Whether it is such a row."""
    return not row["examples"] and row.get("users") is not None


def line_of(row: Row, before: Day | None) -> str:
    """A day in one line.

    Args:
        row: of the table.
        before: the last day that was trained on, before this one.
    """
    if not row["examples"] and before is not None:
        what = "all rows wait (--admit-after)" if waits(row) else "no rows"
        return f"{row['day']}: {what}: the model of {before.name} stays"
    words = [
        f"{row['day']}: {row['examples']:,} examples, {row['new_users']:,} new users, "
        f"{row['new_items']:,} new items"
    ]
    for block, called in BLOCKS.items():
        if row.get(f"{block}/queries"):
            found = (f"{name} {figure(row[f'{block}/{name}'], '.4f')}" for name in CUTOFFS)
            words.append(f"{called} {', '.join(found)}")
    took = [(step, row.get(f"{step}_s")) for step in STEPS]
    words.append(", ".join(f"{step} {seconds:.1f} s" for step, seconds in took if seconds))
    return "; ".join(words)


def _trained(data: Path, side: str) -> pa.ChunkedArray:
    """The ids of the users or items that have an embedding row."""
    table = pq.read_table(
        data / f"{side}s.parquet", columns=[f"{side}_id", side], filters=pc.field(side) > 0
    )
    return table[f"{side}_id"]


def _common(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.is_in(one, value_set=other)).as_py() or 0)
