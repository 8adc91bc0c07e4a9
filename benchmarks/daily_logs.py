"""Logs partitioned by day, for ``benchmarks.daily``: a planted world, and KuaiRand-Pure."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROWTH, DRIFT, SHARPNESS, DIM, CATEGORIES = 1.03, 0.25, 8.0, 16, 12
USER_FEATURES = (
    *("user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"),
    *(f"{name}_range" for name in ("follow_user_num", "fans_user_num", "friend_user_num")),
    *("register_days_range", *(f"onehot_feat{number}" for number in range(18))),
)
ITEM_FEATURES = (
    *("tag", "author_id", "video_type", "upload_dt", "upload_type", "music_type"),
    "video_duration",
)


def write_world(folder: Path, days: int, rows: int, users: int, items: int, seed: int) -> None:
    """Write ``folder``/log/day=D and items.parquet; tastes turn a little every day."""
    rng = np.random.default_rng(seed)
    most_users, most_items = (int(n * GROWTH**days) + 1 for n in (users, items))
    centre = rng.normal(size=(CATEGORIES, DIM))
    category = rng.integers(0, CATEGORIES, most_items)
    item = _unit(_unit(centre)[category] + 0.25 * rng.normal(size=(most_items, DIM)))
    taste = _unit(rng.normal(size=(most_users, DIM)))
    popularity = rng.permutation(np.log(1 / np.arange(1, most_items + 1) ** 0.5))
    for day in range(days):
        taste = _unit(taste + DRIFT / np.sqrt(DIM) * rng.normal(size=taste.shape))
        here_users, here_items = (int(n * GROWTH**day) for n in (users, items))
        user = np.sort((rng.random(rows) ** 1.5 * here_users).astype(np.int64))
        score = SHARPNESS * taste[:here_users] @ item[:here_items].T + popularity[:here_items]
        chance = np.cumsum(np.exp(score - score.max(1, keepdims=True)), 1)
        draw = rng.random(rows) * chance[user, -1]
        chosen = [int(np.searchsorted(chance[u], x)) for u, x in zip(user, draw, strict=True)]
        moment = day * 86_400 + rng.permutation(rows) * 86_400 // rows
        part = folder / "log" / f"day={day}"
        part.mkdir(parents=True)
        columns = {"user_id": user, "item_id": np.array(chosen), "time": moment}
        pq.write_table(pa.table(columns), part / "part.parquet")
    catalogue = {"item_id": np.arange(most_items), "kind": category}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_kuairand(folder: Path, source: Path) -> int:
    """Write ``folder``/log/day=D: 0 is KuaiRand's training, 1 to 14 are 25 April to 8 May.

    Of most training rows the stored files know only the order of a user's; they take the seconds
    before 25 April in that order. Days begin at midnight in China, 25 April an hour before.

    Args:
        folder: where items.parquet and users.parquet are written too.
        source: folder with KuaiRand-Pure's interactions.parquet, items.parquet, users.parquet.

    Returns:
        Number of days, the first one included.
    """
    database = duckdb.connect()
    midnight = "epoch(TIMESTAMP '2022-04-24 16:00:00')::BIGINT"
    rows = (
        "SELECT user_id, item_id, CASE WHEN split = 'train' THEN 0 "
        f"ELSE greatest(ts - {midnight}, 0) // 86400 + 1 END AS day, CASE WHEN split = 'train' "
        f'THEN {midnight} - row_number() OVER (PARTITION BY user_id, split ORDER BY "order" DESC)'
        f" ELSE ts END AS time FROM '{source / 'interactions.parquet'}' WHERE long_watch = 1"
    )
    database.execute(f"COPY ({rows}) TO '{folder / 'log'}' (FORMAT parquet, PARTITION_BY (day))")
    for name in ("items", "users"):
        columns = ITEM_FEATURES if name == "items" else USER_FEATURES
        names = ", ".join(f'"{c}"' for c in (f"{name[:-1]}_id", *columns))
        more = ", category" if name == "items" else ""
        database.execute(
            f"COPY (SELECT {names}{more} FROM '{source / f'{name}.parquet'}') "
            f"TO '{folder / f'{name}.parquet'}' (FORMAT parquet)"
        )
    found = database.execute(f"SELECT max(day) + 1 FROM ({rows})").fetchone()
    assert found is not None
    return int(found[0])
