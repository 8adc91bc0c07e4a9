"""A small log whose users and items have dense features of every kind, and what they are, plainly.

Some values are missing. Items from 30 on occur in the test only, and their values are far from all
others: mean and scale that know of them would be others.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from tests.data.sources.prepared import own, write

USERS, ITEMS, TRAINED_ITEMS, ROWS = 50, 36, 30, 1_500
TEXT_WIDTH, FACE_WIDTH = 5, 3
DENSE = ("text", "price", "face", "since")
SHELF = "the  shelf; of {1} 100 % \\ -- `a`, $b"
"""The category: a name that SQL, paths and formats might each read for something else."""
Values = dict[str, list[Any]]


def item_values(seed: int = 0) -> Values:
    """By column: a vector or a number of each item, None where there is none."""
    rng = np.random.default_rng([seed, 1])
    text = (3 * rng.normal(size=(ITEMS, TEXT_WIDTH))).astype(np.float32)
    text[TRAINED_ITEMS:] *= 1000
    price = rng.gamma(2, 10, ITEMS)
    price[TRAINED_ITEMS:] += 1e6
    return {
        "text": [None if item % 7 == 3 else text[item].tolist() for item in range(ITEMS)],
        "price": [None if item % 11 == 5 else float(price[item]) for item in range(ITEMS)],
    }


def user_values(seed: int = 0) -> Values:
    """As ``item_values``; since is a time in seconds, an integer that a float32 does not hold."""
    rng = np.random.default_rng([seed, 2])
    face = rng.normal(size=(USERS, FACE_WIDTH)).astype(np.float32)
    since = 1_700_000_000 + rng.integers(0, 1000, USERS)
    return {
        "face": [None if user % 9 == 4 else face[user].tolist() for user in range(USERS)],
        "since": [None if user % 8 == 2 else int(since[user]) for user in range(USERS)],
    }


def write_dense_log(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write log, items and users; return the options that prepare them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 3])
    item = rng.integers(0, TRAINED_ITEMS, ROWS)
    item[-150:] = rng.integers(0, ITEMS, 150)
    users = rng.integers(0, USERS, ROWS)
    write(folder / "log.parquet", user_id=users, item_id=item, time=np.arange(ROWS))
    vector = pa.list_(pa.float32())
    of_items, of_users = item_values(seed), user_values(seed)
    items = write(
        folder / "items.parquet",
        item_id=np.arange(ITEMS),
        **{SHELF: [f"shelf {number % 4}" for number in range(ITEMS)]},
        text=pa.array(of_items["text"], vector),
        price=pa.array(of_items["price"], pa.float64()),
    )
    users_file = write(
        folder / "users.parquet",
        user_id=np.arange(USERS),
        face=pa.array(of_users["face"], vector),
        since=pa.array(of_users["since"], pa.int64()),
    )
    return {
        "items": items,
        "users": users_file,
        "category": SHELF,
        "item_features": ("text", "price"),
        "user_features": ("face", "since"),
        "dense": DENSE,
    }


def prepare_dense(folder: Path, seed: int = 0, **changes: Any) -> Dataset:
    """Write the log into the folder, and prepare it as the dataset ``out``."""
    prepare(own(folder, **(write_dense_log(folder, seed) | changes)))
    return Dataset.open(folder / "out")


def of_rows(dataset: Dataset, name: str, seed: int = 0) -> NDArray[np.float64]:
    """(rows, width) values of a feature by row of users.parquet or items.parquet; NaN for none."""
    key, values = (
        ("user_id", user_values(seed))
        if name in ("face", "since")
        else (
            "item_id",
            item_values(seed),
        )
    )
    width = {"text": TEXT_WIDTH, "face": FACE_WIDTH}.get(name, 1)
    ids = pq.read_table(dataset.folder / f"{key[:4]}s.parquet")[key].to_pylist()
    found = [values[name][number] for number in ids]
    return np.array([[np.nan] * width if v is None else np.ravel(v) for v in found], np.float64)


def scaled_rows(dataset: Dataset, name: str, seed: int = 0) -> NDArray[np.float64]:
    """The same, with mean and scale of the trained rows found anew; NaN for none."""
    values = of_rows(dataset, name, seed)
    side = "user" if name in ("face", "since") else "item"
    known = values[: dataset.schema.feature(side).rows - 1]
    known = known[~np.isnan(known[:, 0])]
    mean = known.mean() if name in ("price", "since") else 0.0
    return (values - mean) / np.sqrt(((known - mean) ** 2).mean())
