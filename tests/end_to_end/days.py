"""Days of a log, each prepared with its own numbering; and what its rows mean, read plainly."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog


def write_day(
    folder: Path,
    users: range,
    items: range,
    *,
    text: bool,
    seed: int,
    features: bool = True,
    rows: int = 2_000,
    **options: Any,
) -> Path:
    """A day's log, prepared; the more popular an item is yesterday, the less it is today."""
    rng = np.random.default_rng(seed)
    kind = pa.string() if text else pa.int64()

    def ids(numbers: Any) -> pa.Array:
        return pa.array(np.asarray(numbers), pa.int64()).cast(kind)

    folder.mkdir(parents=True)
    weight = np.arange(1.0, len(items) + 1)
    weight = weight if text else weight[::-1]
    log = {
        "user_id": ids(rng.choice(users, rows)),
        "item_id": ids(rng.choice(items, rows, p=weight / weight.sum())),
        "time": np.arange(rows),
    }
    pq.write_table(pa.table(log), folder / "log.parquet")
    # Prices that are the same in six digits.
    price = [1_700_000_000 + (item % 20) * 8 for item in items]
    genre = [f"genre {(item + 2 * text) % 7 + text}" for item in items]
    catalogue = {"item_id": ids(items), "genre": genre, "price": price}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")
    city = [f"city {user % 5 + 2 * text}" for user in users]
    pq.write_table(pa.table({"user_id": ids(users), "city": city}), folder / "users.parquet")
    prepare(
        ParquetLog(
            out=folder / "data",
            interactions=folder / "log.parquet",
            items=folder / "items.parquet",
            users=folder / "users.parquet",
            category="genre",
            item_features=("price",),
            numbers=("price",),
            user_features=("city",) if features else (),
            **options,
        )
    )
    return folder / "data"


def meanings(data: Path, table: str) -> dict[str, int]:
    """By what a row of ``table`` means, its number; written plainly."""
    if table in ("user", "item"):
        rows = pq.read_table(data / f"{table}s.parquet").to_pylist()
        return {str(row[f"{table}_id"]): row[table] for row in rows if row[table] != 0}
    rows = pq.read_table(data / f"vocabularies/{table}.parquet").to_pylist()
    return {row["value"]: row["index"] for row in rows if row["index"] != 0}
