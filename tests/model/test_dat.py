"""The model against hand-made towers, and why augmented vectors need tables of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dat_rec.config import ModelConfig, Pooling
from dat_rec.data.columns import Column
from dat_rec.data.schema import ExampleFile, Feature, Schema
from dat_rec.data.stream.batch import Items, negative_key, to_kjt
from dat_rec.model.dat import DAT, DATOutput
from dat_rec.model.losses import mimic, sampled_softmax

IDS = 256
SCHEMA = Schema(
    source="toy",
    features=(
        Feature("user", "query", "user", IDS + 1),
        Feature("history", "query", "item", IDS + 1, multi_valued=True),
        Feature("item", "item", "item", IDS + 1),
        Feature("category", "item", "category", 4),
    ),
    category="category",
    history_length=3,
    users=IDS,
    items=IDS,
    trained_items=IDS,
    examples=IDS,
    tests=0,
    example_files=(ExampleFile("examples/part-00000.parquet", IDS),),
    split="none",
    rows_read=IDS,
    rejected={},
)
CONFIG = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=4)


def columns(rows: int, negatives: int, rng: np.random.Generator) -> dict[str, Column]:
    lengths = rng.integers(0, 4, rows)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    result = {
        "user": Column(rng.integers(0, IDS + 1, rows), None),
        "history": Column(rng.integers(0, IDS + 1, offsets[-1]), offsets),
    }
    for key in ["", *(f"@{n + 1}" for n in range(negatives))]:
        result["item" + key] = Column(rng.integers(0, IDS + 1, rows), None)
        result["category" + key] = Column(rng.integers(0, 4, rows), None)
    return result


def tower_by_hand(layers: list[tuple[Tensor, Tensor]], x: Tensor, last_relu: bool) -> Tensor:
    for number, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if number < len(layers) - 1 or last_relu:
            x = torch.where(x > 0, x, 0)
    return x / x.pow(2).sum().sqrt().clamp(min=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "sqrt"])
@pytest.mark.parametrize("last_relu", [False, True])
@pytest.mark.parametrize("augment", [False, True])
def test_output_is_section_2_3_example_by_example(
    augment: bool, last_relu: bool, pooling: Pooling
) -> None:
    torch.manual_seed(0)
    rows, negatives = 6, 2
    config = replace(CONFIG, augment=augment, last_relu=last_relu, pooling=pooling)
    model = DAT(SCHEMA, config, negatives)
    given = columns(rows, negatives, np.random.default_rng(0))
    output = model(to_kjt(given, list(given), rows))
    vectors = torch.cat([output.item_BD, output.negative_ND])
    assert len(vectors) == rows * (1 + negatives)
    weights = {
        name.removesuffix(".weight").rsplit(".", 1)[1]: tensor
        for name, tensor in model.state_dict().items()
        if "embedding_bags" in name
    }
    towers = {
        side: [
            (layer.weight, layer.bias)
            for layer in tower.layers
            if isinstance(layer, torch.nn.Linear)
        ]
        for side, tower in (("query", model.query_tower), ("item", model.item_tower))
    }
    for row in range(rows):
        user = given["user"].values[row]
        offsets = given["history"].offsets
        assert offsets is not None
        history = given["history"].values[offsets[row] : offsets[row + 1]]
        pooled = weights["item"][history].mean(0) if len(history) else torch.zeros(8)
        if pooling == "sqrt":
            pooled = pooled * len(history) ** 0.5
        z_u = [weights["user"][user], pooled]
        if augment:
            z_u.append(weights["augmented_user"][user])
            assert output.augmented_user_BD is not None
            torch.testing.assert_close(output.augmented_user_BD[row], z_u[-1])
        p_u = tower_by_hand(towers["query"], torch.cat(z_u), last_relu)
        torch.testing.assert_close(output.query_BD[row], p_u)
        for number in range(1 + negatives):
            item, category = (
                given[negative_key(key, number) if number else key].values[row]
                for key in ("item", "category")
            )
            z_v = [weights["item"][item], weights["category"][category]]
            if augment:
                z_v.append(weights["augmented_item"][item])
            p_v = tower_by_hand(towers["item"], torch.cat(z_v), last_relu)
            torch.testing.assert_close(vectors[number * rows + row], p_v)


def test_shared_negatives_behind_the_examples_are_items_like_any_other() -> None:
    rows, shared = 6, 4
    given = columns(rows + shared, 0, np.random.default_rng(0))
    model = DAT(SCHEMA, CONFIG)
    everything = model(to_kjt(given, list(given), rows + shared))
    sharing = DAT(SCHEMA, CONFIG, shared_negatives=shared)
    sharing.load_state_dict(model.state_dict())
    queries = {name: given[name].slice(0, rows) for name in ("user", "history")}
    output = sharing(to_kjt(given | queries, list(given), rows + shared))
    for name in ("query_BD", "item_BD", "augmented_user_BD", "augmented_item_BD"):
        torch.testing.assert_close(getattr(output, name), getattr(everything, name)[:rows])
    torch.testing.assert_close(output.negative_ND, everything.item_BD[rows:])


def test_augmented_vectors_have_tables_of_their_own() -> None:
    model = DAT(SCHEMA, CONFIG)
    assert model.augmented is not None
    features = {c.name for c in model.embeddings.embedding_bag_configs()}
    augmented = {c.name: c for c in model.augmented.embedding_bag_configs()}
    assert not features & augmented.keys()
    assert {c.embedding_dim for c in augmented.values()} == {CONFIG.output_dim}


class SharedRow(DAT):
    """What must not be: the id's embedding row serves as its augmented vector too."""

    def forward(self, features: object) -> DATOutput:
        output: DATOutput = super().forward(features)
        keyed = self.embeddings(features).to_dict()
        assert self.augmented is None
        return output._replace(augmented_user_BD=keyed["user"], augmented_item_BD=keyed["item"])


def tables(model: DAT) -> list[torch.nn.Parameter]:
    named = model.named_parameters()
    return [parameter for name, parameter in named if "embedding_bags" in name]


def recall_after_training(model: DAT, mimic_weight: float, steps: int = 150) -> float:
    """User i wants item i. Recall@5 over all items after a few steps."""
    torch.manual_seed(0)
    ids = np.arange(1, IDS + 1)
    ones = np.ones(IDS, np.int64)
    features = to_kjt(
        {
            "user": Column(ids, None),
            "history": Column(ids[:0], np.zeros(IDS + 1, np.int64)),
            "item": Column(ids, None),
            "category": Column(ones, None),
        },
        ["user", "history", "item", "category"],
        IDS,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    own = Items(torch.arange(IDS), torch.zeros(IDS), torch.zeros(IDS))
    for _ in range(steps):
        output = model(features)
        assert output.augmented_user_BD is not None
        assert output.augmented_item_BD is not None
        item = output.item_BD
        loss = sampled_softmax(output.query_BD, item, item, own, own, IDS, 0.1)
        # Summed over the batch, as the peer that shares rows does: its weight is B.
        loss = loss + mimic_weight * mimic(output.augmented_user_BD, item, 1)
        loss = loss + mimic_weight * mimic(output.augmented_item_BD, output.query_BD, 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = model(features)
    scores = output.query_BD @ output.item_BD.T
    better = (scores > scores.diagonal()[:, None]).sum(1)
    return float((better < 5).float().mean())


def test_own_tables_learn_where_a_shared_row_collapses() -> None:
    config = replace(CONFIG, embedding_dim=16, output_dim=16, hidden=(32,))
    recall = {}
    for name, kind, weight in (
        ("own", DAT, 1.0),
        ("shared", SharedRow, 1.0),
        ("off", SharedRow, 0.0),
    ):
        torch.manual_seed(0)
        model = kind(SCHEMA, replace(config, augment=kind is DAT))
        with torch.no_grad():
            for parameter in tables(model):
                parameter.mul_(0.01)
        recall[name] = recall_after_training(model, weight)
    assert recall["off"] > 0.9
    assert recall["own"] > 0.9
    assert recall["shared"] < 0.5, recall


def test_bfloat16_towers_keep_float32_weights_and_outputs_near_float32s() -> None:
    outputs = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = DAT(SCHEMA, replace(CONFIG, precision=precision))
        given = columns(6, 0, np.random.default_rng(0))
        outputs[precision] = model(to_kjt(given, list(given), 6)).item_BD
        outputs[precision].sum().backward()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(p.grad is not None for p in model.item_tower.parameters())
    close, exact = outputs["bfloat16"], outputs["float32"]
    assert close.dtype == torch.float32
    error = (close - exact).abs().max()
    assert 0 < error < 0.03
    torch.testing.assert_close(close.norm(dim=1), torch.ones(6))
