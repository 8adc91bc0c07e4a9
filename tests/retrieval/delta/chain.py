"""Days of a small world, whose ids come, go and stand in another order each day."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.retrieval import export_parts, export_rows, golden
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.export import export
from tests.retrieval.world import ITEMS, USERS, write_dataset, write_run

SHIFT = 4
"""Number of users, and of items, that go each day, and that come."""


class Chain(NamedTuple):
    """Exports of some days in full, and the deltas between them: ``deltas[0]`` leads to day 1."""

    runs: list[Path]
    full: list[Path]
    deltas: list[Path]


@contextmanager
def small_parts() -> Iterator[None]:
    """As if the world were large: many parts of users and items."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (export_parts, export_rows, golden):
            patch.setattr(module, "PART_ROWS", 8)
        yield


def day_run(folder: Path, day: int) -> Path:
    """The run of a day: its tables, vectors and histories have nothing of the day before.

    Half of the items keep their titles and counts, so that their rows are the same.
    """
    data = write_dataset(folder / "data", seed=day)
    rng = np.random.default_rng(day)
    for name, key, count in (("users", "user_id", USERS), ("items", "item_id", ITEMS)):
        table = pq.read_table(data / f"{name}.parquet")
        numbers = rng.permutation(count) + SHIFT * day
        ids = numbers + 1000 if name == "items" else [f"u{number}" for number in numbers]
        table = table.set_column(table.column_names.index(key), key, pa.array(ids))
        if name == "items":
            titles = pa.array([f"title {number}" for number in numbers])
            table = table.set_column(table.column_names.index("title"), "title", titles)
        pq.write_table(table, data / f"{name}.parquet", row_group_size=13)
    return write_run(folder / "run", data)


def write_chain(folder: Path, days: int) -> Chain:
    """Days whose exports have parts of eight rows."""
    runs = [day_run(folder / f"day{day}", day) for day in range(days)]
    full = [folder / f"full{day}" for day in range(days)]
    deltas = [folder / f"delta{day}" for day in range(1, days)]
    with small_parts():
        for run, out in zip(runs, full, strict=True):
            export(run, out)
        base = full[0]
        for day, delta in enumerate(deltas, 1):
            export(runs[day], delta, since=base)
            apply(base, [delta], folder / f"applied{day}")
            base = folder / f"applied{day}"
    return Chain(runs, full, deltas)


def copied(source: Path, target: Path) -> Path:
    """A copy that a test may harm."""
    return Path(shutil.copytree(source, target))
