"""The exported query tower against the model, for every precision that towers are trained in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dat_rec.config import ModelConfig
from dat_rec.data.dataset import Dataset
from dat_rec.model.dat import DAT
from dat_rec.retrieval.encode import encode_users
from dat_rec.retrieval.query_encoder import QueryEncoder, QueryTower, save_query_tower
from tests.retrieval.world import USERS, write_dataset

CONFIG = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8)
# The model divides a history's sum, the export takes its mean: a last bit of float32, which
# bfloat16 may round to its next number, 1/256 away.
CLOSE = {"float32": 1e-6, "float64": 1e-6, "bfloat16": 1e-2}


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("precision", CLOSE)
def test_a_tower_of_every_precision_gives_the_models_vectors(
    precision: str, augment: bool, tmp_path: Path
) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "data"))
    torch.manual_seed(7)
    config = replace(CONFIG, precision=precision, augment=augment)
    model = DAT(dataset.schema, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".embedding_bags." in name:
                weight.normal_()
    features = dataset.schema.side("query")
    save_query_tower(QueryEncoder(model, features), features, tmp_path / "tower.pt2")

    users = np.arange(USERS)
    expected = encode_users(model.eval(), dataset, users)
    columns = dataset.user_columns()
    query = {feature.name: columns[feature.name] for feature in features}
    tower = QueryTower(tmp_path / "tower.pt2")
    for count in (USERS, 1, 0):
        found = tower.encode({name: column.take(users[:count]) for name, column in query.items()})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:count], rtol=0, atol=CLOSE[precision])
