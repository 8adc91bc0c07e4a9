"""Worlds for tests that pin every table to every sharding type."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.synthetic import Synthetic


@pytest.fixture(scope="session")
def divisible(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """As ``planted``, with 8 rows of categories: 2, 3 and 4 ranks all get some."""
    folder = tmp_path_factory.mktemp("divisible") / "data"
    prepare(Synthetic(out=folder, users=300, items=200, interactions=9_000, categories=7))
    return Dataset.open(folder)


@pytest.fixture(scope="session")
def tiny_tables(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A log without categories, with a brand that is always missing and a flag of two values.

    Tables of 1, 1 and 3 rows: of the last, the second of two ranks gets one.
    """
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_log(folder)
    prepare(
        ParquetLog(
            out=folder / "data",
            interactions=folder / "log.parquet",
            items=folder / "items.parquet",
            users=folder / "users.parquet",
            item_features=("brand",),
            user_features=("vip",),
        )
    )
    return Dataset.open(folder / "data")


def write_tiny_log(folder: Path) -> None:
    """Write log.parquet, items.parquet and users.parquet."""
    generator = np.random.Generator(np.random.Philox(key=4))
    users, items, rows = 40, 30, 1_200
    log = {
        "user_id": generator.integers(users, size=rows),
        "item_id": generator.integers(items, size=rows),
        "time": np.arange(rows),
    }
    pq.write_table(pa.table(log), folder / "log.parquet")
    brands = pa.nulls(items, pa.string())
    pq.write_table(
        pa.table({"item_id": np.arange(items), "brand": brands}), folder / "items.parquet"
    )
    vip = pa.array([user % 3 == 0 for user in range(users)])
    pq.write_table(pa.table({"user_id": np.arange(users), "vip": vip}), folder / "users.parquet")
