"""What evaluation, an export and `recommend` give of cold users and items, against the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dat_rec.config import LossConfig
from dat_rec.data.schema import UNKNOWN
from dat_rec.data.stream.batch import to_kjt
from dat_rec.retrieval.answer import load_export
from dat_rec.retrieval.export import export
from dat_rec.retrieval.trained import Trained, load_model
from tests.distributed.ranks import run_ranks
from tests.retrieval.test_two_ranks import evaluated_and_exported
from tests.retrieval.world import ITEMS, TRAINED_ITEMS, write_dataset, write_run

LOSS = LossConfig(unknown_count="typical")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    data = write_dataset(folder / "data", validation=True)
    return write_run(folder / "run", data, generate=True, loss=LOSS)


def by_hand(trained: Trained, side: str) -> np.ndarray:
    """p of all users, or items, whose z = [ê ‖ x ‖ â] is joined by hand where the id is unknown."""
    model, dataset = trained.model, trained.dataset
    is_item = side == "item"
    columns = dataset.item_columns() if is_item else dataset.user_columns()
    rows = len(next(iter(columns.values())))
    kjt = to_kjt(columns, [one.name for one in dataset.schema.features], rows)
    pooled = model.embeddings(kjt).to_dict()
    x = [pooled["category"]]
    if not is_item:
        lengths = kjt["history"].lengths().clamp(min=1).unsqueeze(1)
        x = [pooled["age"], pooled["history"] / lengths]
    own = pooled["item" if is_item else "user"]
    assert model.augmented is not None
    augmented = model.augmented(kjt).to_dict()["item" if is_item else "user"]
    head = model.item_generator if is_item else model.query_generator
    assert head is not None
    made = head.output(torch.relu(head.hidden(torch.cat(x, 1))))
    unknown = torch.from_numpy(columns["item" if is_item else "user"].values == UNKNOWN)[:, None]
    assert unknown.any()
    assert not unknown.all()
    e, a = torch.where(unknown, made[:, :8], own), torch.where(unknown, made[:, 8:], augmented)
    tower = model.item_tower if is_item else model.query_tower
    vectors: np.ndarray = tower(torch.cat([e, *x, a], 1)).numpy()
    return vectors


def test_an_export_answers_cold_users_and_items_as_the_model_does(
    run: Path, tmp_path: Path
) -> None:
    trained = load_model(run)
    export(run, tmp_path / "export")
    loaded = load_export(tmp_path / "export")
    query_UD, item_ND = by_hand(trained, "query"), by_hand(trained, "item")
    np.testing.assert_allclose(loaded.item_vectors[:, :-1], item_ND, atol=1e-6)
    cold = item_ND[TRAINED_ITEMS:]
    assert len(np.unique(cold.round(5), axis=0)) == 3, "one for each category, none shared"
    assert len(set(loaded.item_vectors[TRAINED_ITEMS:, -1])) == 1
    users = trained.dataset.table("users", ["user_id", "user"])
    ids = users["user_id"].to_pylist()
    found = loaded.query_vectors(ids)
    np.testing.assert_allclose(found[:, :-1], query_UD, atol=1e-6)
    scores = np.hstack([query_UD, np.ones((len(ids), 1))]) @ loaded.item_vectors.T
    best = loaded.recommend(ids, k=ITEMS)
    place = {item: row for row, item in enumerate(loaded.item_ids)}
    for row in np.flatnonzero(users["user"].to_numpy() == UNKNOWN):
        order = [place[item] for item in best.item_ids[row]]
        np.testing.assert_allclose(best.scores[row], scores[row, order], atol=1e-6)
        assert (np.diff(best.scores[row]) <= 0).all()


def test_nobody_known_has_a_vector_of_the_head_too(run: Path, tmp_path: Path) -> None:
    """[ê ‖ unknown age ‖ no history ‖ â]: not what the row of the unknown gives."""
    trained = load_model(run)
    export(run, tmp_path / "export")
    (found,) = load_export(tmp_path / "export").query_vectors(["nobody"])
    model = trained.model
    head, age = model.query_generator, model.embeddings.tables["age"].local[:1]
    assert head is not None
    x = torch.cat([age, torch.zeros(1, 8)], 1)
    made = head.output(torch.relu(head.hidden(x)))
    expected = model.query_tower(torch.cat([made[:, :8], x, made[:, 8:]], 1))
    np.testing.assert_allclose(found[:-1], expected[0].numpy(), atol=1e-6)
    rows = [model.embeddings.tables["user"].local[:1], x]
    rows.append(model.augmented.tables["augmented_user"].local[:1])
    assert not np.allclose(found[:-1], model.query_tower(torch.cat(rows, 1))[0].numpy(), atol=1e-2)


def test_two_ranks_write_what_one_process_writes(run: Path, tmp_path: Path) -> None:
    (alone,) = run_ranks(evaluated_and_exported, 1, run, tmp_path / "out")
    assert run_ranks(evaluated_and_exported, 2, run, tmp_path / "out")[0] == alone
