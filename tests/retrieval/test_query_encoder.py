"""The exported query tower against the model, for every precision that towers are trained in."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dat_rec.retrieval.query_encoder import QueryEncoder, query_program
from dat_rec.retrieval.tower_file import QueryTower, check_records, write_tower
from dat_rec.retrieval.tower_inputs import to_inputs
from dat_rec.retrieval.trained import load_model
from tests.retrieval.whole import encode_users
from tests.retrieval.world import USERS, write_dataset, write_run

# The model divides a history's sum, the export takes its mean: a last bit of float32, which
# bfloat16 may round to its next number, 1/256 away.
CLOSE = {"float32": 1e-6, "float64": 1e-6, "bfloat16": 1e-2}


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("precision", CLOSE)
def test_a_tower_of_every_precision_gives_the_models_vectors(
    precision: str, augment: bool, generate: bool, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data")
    run = write_run(tmp_path / "run", data, precision=precision, augment=augment, generate=generate)
    trained = load_model(run)
    features = trained.dataset.schema.side("query")
    encoder = QueryEncoder(trained.model, features)
    program, path = query_program(encoder, features), tmp_path / "tower.pt2"
    write_tower(program, encoder.contents, lambda _, rows: rows.local.split(7), path)
    check_records(path)

    users = np.arange(USERS)
    expected = encode_users(trained.model, trained.dataset, users)
    columns = trained.dataset.user_columns()
    ours, plain = QueryTower(path), torch.export.load(path).module()
    other = QueryTower(path, by_torch_export=True)
    for count in (USERS, 1, 0):
        query = {name: column.take(users[:count]) for name, column in columns.items()}
        found = ours.encode(query)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:count], rtol=0, atol=CLOSE[precision])
        assert np.array_equal(found, plain(*to_inputs(query)).numpy())
        assert np.array_equal(found, other.encode(query))
