"""Dense features before the towers, by hand: W·x + b, zeros for what is missing, their place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dat_rec.config import ModelConfig
from dat_rec.data.columns import Column
from dat_rec.data.schema import DenseFeature, ExampleFile, Feature, Schema
from dat_rec.data.stream.batch import to_kjt
from dat_rec.model.dat import DAT
from dat_rec.model.dense import DenseProjection, DenseProjections

DIM, OUT, B = 4, 6, 5
NUMBER = DenseFeature("since", "query", "number", 1, 1_700_000_000.0, 250.0)
VECTOR = DenseFeature("text", "item", "vector", 3, 0.0, 2.0)
PLAIN = Schema(
    source="by hand",
    features=(
        Feature("user", "query", "user", 9),
        Feature("item", "item", "item", 9),
        Feature("shelf", "item", "shelf", 4),
    ),
    category="shelf",
    history_length=1,
    users=8,
    items=8,
    trained_items=8,
    examples=1,
    tests=1,
    example_files=(ExampleFile("x", 1),),
    split="",
    rows_read=1,
    rejected={},
)
DENSE = replace(PLAIN, dense=(NUMBER, VECTOR))
CONFIG = ModelConfig(embedding_dim=DIM, hidden=(7,), output_dim=OUT)


def values() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    since = 1_700_000_000 + rng.integers(0, 1000, (B, 1)).astype(np.float64)
    text = rng.normal(size=(B, 3)).astype(np.float32)
    since[2], text[1] = np.nan, np.nan
    return {"since": torch.from_numpy(since), "text": torch.from_numpy(text)}


def projected(
    projection: DenseProjection, feature: DenseFeature, given: Tensor
) -> list[list[float]]:
    """The definition, number by number."""
    weight, bias = projection.layer.weight.tolist(), projection.layer.bias.tolist()
    rows = []
    for row in given.tolist():
        if np.isnan(row[0]):
            rows.append([0.0] * len(bias))
            continue
        x = [(value - feature.mean) / feature.scale for value in row]
        rows.append(
            [
                b + sum(w * v for w, v in zip(ws, x, strict=True))
                for ws, b in zip(weight, bias, strict=True)
            ]
        )
    return rows


@pytest.mark.parametrize("feature", [NUMBER, VECTOR], ids=["number", "vector"])
def test_a_projection_is_its_definition(feature: DenseFeature) -> None:
    torch.manual_seed(1)
    projection = DenseProjection(feature, DIM)
    given = values()[feature.name]
    found = projection(given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(projected(projection, feature, given)))
    found.sum().backward()
    assert torch.isfinite(projection.layer.weight.grad).all()
    known = (~given[:, 0].isnan()).sum()
    torch.testing.assert_close(projection.layer.bias.grad, torch.full((DIM,), float(known)))


def test_what_is_not_there_is_zeros_and_stands_in_its_place() -> None:
    torch.manual_seed(1)
    two = DenseProjections([VECTOR, replace(VECTOR, name="other")], DIM)
    first, second = two
    text = values()["text"]
    beside = torch.zeros(B + 2, DIM)
    found = two({"text": text, "text@1": text + 1, "other@1": text}, beside)
    expected = torch.cat([first(text), torch.zeros(2, DIM)])
    assert torch.equal(found, torch.cat([expected, torch.zeros(B + 2, DIM)], dim=1))
    found = two({"text@1": text + 1, "other@1": text}, torch.zeros(B, DIM), 1)
    assert torch.equal(found, torch.cat([first(text + 1), second(text)], dim=1))


def look_up(model: DAT, dense: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The towers' inputs of B users and items."""
    ids = np.arange(1, B + 1)
    columns = {
        name: Column(ids % 4 if name == "shelf" else ids, None)
        for name in ("user", "item", "shelf")
    }
    inputs = model.look_up(to_kjt(columns, list(columns), B), dense)
    return inputs.query_BF, inputs.items_BF[0]


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("augment", [True, False])
def test_they_stand_between_embeddings_and_augmented_vectors(augment: bool, precision: str) -> None:
    torch.manual_seed(2)
    model = DAT(DENSE, replace(CONFIG, augment=augment, precision=precision))  # type: ignore[arg-type]
    dense = values()
    query_BF, item_BF = look_up(model, dense)
    assert model.query_dense is not None
    assert model.item_dense is not None
    ids = torch.arange(1, B + 1)
    tables = model.embeddings.embedding_bags
    expected_query = [tables["user"].weight[ids], next(iter(model.query_dense))(dense["since"])]
    expected_item = [tables["item"].weight[ids], tables["shelf"].weight[ids % 4]]
    expected_item.append(next(iter(model.item_dense))(dense["text"]))
    if augment:
        assert model.augmented is not None
        augmented = model.augmented.embedding_bags
        expected_query.append(augmented["augmented_user"].weight[ids])
        expected_item.append(augmented["augmented_item"].weight[ids])
    for found, expected in ((query_BF, expected_query), (item_BF, expected_item)):
        assert torch.equal(found, torch.cat([part.to(found.dtype) for part in expected], dim=1))
        assert found.dtype == (torch.float64 if precision == "float64" else torch.float32)


def test_residual_ways_lead_past_them_to_the_augmented_vector() -> None:
    """With the tower's own way closed, p_u is e_u + a_u, normalised: no dense value is in it."""
    torch.manual_seed(2)
    model = DAT(DENSE, replace(CONFIG, embedding_dim=OUT, residual=True))
    ids, dense = torch.arange(1, B + 1), values()
    vectors = model.query_tower(look_up(model, dense)[0])
    assert model.augmented is not None
    own = model.embeddings.embedding_bags["user"].weight[ids]
    augmented = model.augmented.embedding_bags["augmented_user"].weight[ids]
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(own + augmented, dim=1))


def test_bfloat16_projects_near_float32() -> None:
    found = {}
    for bfloat16 in (False, True):
        torch.manual_seed(1)
        found[bfloat16] = DenseProjection(VECTOR, DIM, bfloat16=bfloat16)(values()["text"])
    error = (found[True] - found[False]).abs().max()
    assert 0 < error < 0.02


def test_a_dataset_without_them_gives_the_weights_of_before() -> None:
    """No module and no random number more: towers begin with what torch's own layers would."""
    meta = torch.device("meta")
    torch.manual_seed(3)
    model = DAT(PLAIN, CONFIG, embedding_device=meta)
    state = torch.get_rng_state()
    assert not any("dense" in name for name, _ in model.named_parameters())
    torch.manual_seed(3)
    DAT(DENSE, CONFIG, embedding_device=meta)
    assert not torch.equal(torch.get_rng_state(), state), "else nothing is shown"
    torch.manual_seed(3)
    for tower, width in ((model.query_tower, DIM + OUT), (model.item_tower, 2 * DIM + OUT)):
        layers = [one for one in tower.layers if isinstance(one, torch.nn.Linear)]
        for layer, shape in zip(layers, ((width, 7), (7, OUT)), strict=True):
            assert torch.equal(torch.nn.Linear(*shape).weight, layer.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_another_scale_map_each_value_as_before() -> None:
    torch.manual_seed(1)
    before = DenseProjection(NUMBER, DIM)
    now = DenseProjection(replace(NUMBER, mean=1_700_000_300.0, scale=91.0), DIM)
    now.load_state_dict(before.state_dict())
    given = values()["since"]
    assert not torch.allclose(now(given), before(given))
    now.take_over(NUMBER)
    torch.testing.assert_close(now(given), before(given), rtol=1e-5, atol=1e-5)
