"""Rows with the same features have one vector: the towers' products round by place and shape."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dat_rec.config import LossConfig, ModelConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Schema
from dat_rec.model.dat import DAT
from dat_rec.retrieval import encode
from dat_rec.training.objective import TrainTask
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import write_dataset


@pytest.fixture
def twins(tmp_path: Path) -> Dataset:
    """A dataset of 61 users and 131 items: two kinds of users, three of items, all unknown."""
    folder = write_dataset(tmp_path / "data")
    for name, rows, kinds in (("users", 61, 2), ("items", 131, 3)):
        table = pq.read_table(folder / f"{name}.parquet")
        table = pa.concat_tables([table.slice(i % kinds, 1) for i in range(rows)])
        pq.write_table(table, folder / f"{name}.parquet")
    replace(Schema.load(folder), users=61, items=131).save(folder)
    return Dataset.open(folder)


def odd_model(schema: Schema) -> DAT:
    """With widths that no product's tiles divide."""
    torch.manual_seed(1)
    shape = ModelConfig(embedding_dim=12, hidden=(17, 9), output_dim=5)
    loss = LossConfig(negatives=0)
    return TrainTask(schema, shape, loss).dat.requires_grad_(False).eval()


@pytest.mark.parametrize("rows", [2, 7, 8192])
def test_rows_with_the_same_features_have_the_same_bits(
    twins: Dataset, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(encode, "ROWS", rows)
    model = odd_model(twins.schema)
    users = encode_users(model, twins, np.arange(61))
    items = encode_items(model, twins)
    assert (users.shape, items.shape) == ((61, 5), (131, 5))
    assert [len({row.tobytes() for row in users[i::2]}) for i in range(2)] == [1, 1]
    assert [len({row.tobytes() for row in items[i::3]}) for i in range(3)] == [1, 1, 1]
    assert len({row.tobytes() for row in users}) == 2
    some = encode_users(model, twins, np.array([7, 1, 1, 60, 2]))
    np.testing.assert_allclose(some, users[[7, 1, 1, 60, 2]], atol=1e-6)
