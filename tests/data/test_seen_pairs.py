"""Whoever reads a dataset's pairs and past finds in parts what one file of each has."""

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.seen_pairs import pairs_by_user
from dat_rec.errors import UserError
from dat_rec.retrieval.blend import past_of
from dat_rec.retrieval.fitted import read_training
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import one_thread_each
from tests.data.prepare.test_after import Chain


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of four days that were added one by one."""
    folder = tmp_path_factory.mktemp("parts")
    chain = Chain(folder, "plain", seed=2)
    chain.make("0", 0, 1, split="none")
    for day in (1, 2, 3):
        last = {"test_from": "430"} if day == 3 else {"split": "none"}
        chain.make(f"{day}", day + 1, day + 1, after=folder / f"{day - 1}", **last)
    found = Dataset.open(folder / "3")
    assert len(found.schema.seen_paths) == 4
    assert len(found.schema.past_paths) == 3
    return found


@pytest.fixture(scope="module")
def plain(parts: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same with one file of each."""
    folder = tmp_path_factory.mktemp("plain") / "data"
    assert isinstance(parts.folder, Path)
    folder.mkdir()
    for path in parts.folder.glob("*.parquet"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "examples").symlink_to(parts.folder / "examples")
    with duckdb.connect() as database:
        pairs = "SELECT user_row, item_index, sum(count)::INTEGER AS count"
        database.execute(
            f"COPY ({pairs} FROM '{parts.folder}/seen/*.parquet' GROUP BY ALL ORDER BY ALL) "
            f"TO '{folder}/seen.parquet'; "
            f"COPY (FROM '{parts.folder}/past/*.parquet') TO '{folder}/past.parquet'"
        )
    replace(parts.schema, seen_files=(), past_files=()).save(folder)
    return Dataset.open(folder)


def test_queries_and_blends_know_the_same(parts: Dataset, plain: Dataset) -> None:
    found, wanted = Protocol.read(parts), Protocol.read(plain)
    for name in ("seen_offsets", "seen_item", "seen_count", "own_count", "new_pair"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert wanted.seen_count.max() > 3
    for one, other in zip(past_of(parts, found), past_of(plain, wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def test_baselines_are_fitted_on_the_same(parts: Dataset, plain: Dataset) -> None:
    with one_thread_each() as threads:
        found = read_training(parts, Protocol.read(parts), threads).pairs
        wanted = read_training(plain, Protocol.read(plain), threads).pairs
    assert (found != wanted).nnz == 0
    np.testing.assert_array_equal(found.data, wanted.data)
    np.testing.assert_array_equal(found.indices, wanted.indices)


@pytest.mark.parametrize("rows", [1, 3, 50, 10_000])
def test_pairs_come_by_user_and_each_once(parts: Dataset, plain: Dataset, rows: int) -> None:
    table = pq.read_table(plain.folder / "seen.parquet")
    wanted = list(zip(table["user_row"].to_pylist(), table["item_index"].to_pylist(), strict=True))
    for dataset in (parts, plain):
        blocks = list(pairs_by_user(dataset, rows))
        users = [set(user.tolist()) for user, _ in blocks]
        assert sum(map(len, users)) == len(set().union(*users))
        pairs = [
            pair for user, item in blocks for pair in zip(user.tolist(), item.tolist(), strict=True)
        ]
        assert pairs == wanted
        assert rows > 1_000 or len(blocks) > 5


def test_a_damaged_part_is_named(parts: Dataset, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    for path in parts.schema.seen_paths:
        (tmp_path / path).write_bytes((parts.folder / path).read_bytes())
    pq.write_table(pa.table({"user_row": [1]}), tmp_path / parts.schema.seen_paths[2])
    with pytest.raises(UserError, match=r"part-00002.parquet: cannot be read"):
        list(pairs_by_user(replace(parts, folder=tmp_path), 10))
