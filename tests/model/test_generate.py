"""Vectors for unknown ids against a plain computation, and where their gradients go."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dat_rec.data.columns import Column
from dat_rec.data.schema import UNKNOWN
from dat_rec.data.stream.batch import negative_key, to_kjt
from dat_rec.model.dat import DAT, DATOutput
from dat_rec.model.generate import known
from dat_rec.model.losses import mimic
from tests.model.test_dat import CONFIG, SCHEMA, columns, tower_by_hand

ROWS, NEGATIVES = 8, 2
ITEM_KEYS = tuple(negative_key("item", n) if n else "item" for n in range(1 + NEGATIVES))
GENERATE = replace(CONFIG, generate=True)


def given(*unknown: str) -> dict[str, Column]:
    """Columns in which every other id of the keys ``unknown`` is, and no other."""
    found = columns(ROWS, NEGATIVES, np.random.default_rng(0))
    for key in ("user", *ITEM_KEYS):
        values = np.maximum(found[key].values, 1)
        if key in unknown:
            values[::2] = UNKNOWN
        found[key] = Column(values, None)
    return found


def output(model: DAT, columns: dict[str, Column]) -> DATOutput:
    found: DATOutput = model(to_kjt(columns, list(columns), ROWS))
    return found


def weights(model: DAT) -> dict[str, Tensor]:
    return {
        name.removesuffix(".weight").rsplit(".", 1)[1]: tensor
        for name, tensor in model.state_dict().items()
        if "embedding_bags" in name
    }


def layers(*linear: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(one.weight, one.bias) for one in linear if isinstance(one, nn.Linear)]


def made(head: nn.Module | None, beside: Tensor) -> tuple[Tensor, Tensor]:
    """ê and â by hand."""
    assert head is not None
    (w_1, b_1), (w_2, b_2) = layers(*head.children())
    hidden = w_1 @ beside + b_1
    both = w_2 @ torch.where(hidden > 0, hidden, 0) + b_2
    return both[:8], both[8:]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_unknown_ids_have_what_the_head_makes_of_the_rest(augment: bool, precision: str) -> None:
    torch.manual_seed(0)
    config = replace(GENERATE, augment=augment, precision=precision)  # type: ignore[arg-type]
    model = DAT(SCHEMA, config, NEGATIVES)
    batch = given("user", *ITEM_KEYS)
    found = output(model, batch)
    table = {name: tensor.to(model.dtype) for name, tensor in weights(model).items()}
    vectors = torch.cat([found.item_BD, found.negative_ND])
    for row in range(ROWS):
        user, offsets = batch["user"].values[row], batch["history"].offsets
        assert offsets is not None
        history = batch["history"].values[offsets[row] : offsets[row + 1]]
        x_u = table["item"][history].mean(0) if len(history) else torch.zeros(8).to(model.dtype)
        e, a = made(model.query_generator, x_u)
        if user != UNKNOWN:
            e, a = table["user"][user], table["augmented_user"][user] if augment else a
        z_u = torch.cat([e, x_u, *([a] if augment else [])])
        p_u = tower_by_hand(layers(*model.query_tower.layers), z_u, last_relu=False)
        torch.testing.assert_close(found.query_BD[row], p_u)
        if augment:
            assert found.augmented_user_BD is not None
            torch.testing.assert_close(found.augmented_user_BD[row], a)
        for number, key in enumerate(ITEM_KEYS):
            item = batch[key].values[row]
            x_v = table["category"][batch[key.replace("item", "category")].values[row]]
            e, a = made(model.item_generator, x_v)
            if item != UNKNOWN:
                e, a = table["item"][item], table["augmented_item"][item] if augment else a
            z_v = torch.cat([e, x_v, *([a] if augment else [])])
            p_v = tower_by_hand(layers(*model.item_tower.layers), z_v, last_relu=False)
            torch.testing.assert_close(vectors[number * ROWS + row], p_v)
            if augment and not number:
                assert found.augmented_item_BD is not None
                torch.testing.assert_close(found.augmented_item_BD[row], a)


def test_known_ids_have_the_vectors_that_they_have_without_to_the_last_bit() -> None:
    torch.manual_seed(0)
    with_heads = DAT(SCHEMA, GENERATE, NEGATIVES)
    torch.manual_seed(0)
    without = DAT(SCHEMA, CONFIG, NEGATIVES)
    batch = given("user", *ITEM_KEYS)
    ours, plain = output(with_heads, batch), output(without, batch)
    rows = torch.arange(ROWS) % 2 == 1
    for name, same in (("query_BD", rows), ("item_BD", rows), ("negative_ND", rows.repeat(2))):
        mine, theirs = getattr(ours, name), getattr(plain, name)
        assert torch.equal(mine[same], theirs[same])
        assert not torch.isclose(mine[~same], theirs[~same]).all(dim=1).any()


def heads(model: DAT) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, one) for name, one in model.named_parameters() if "generator" in name)


def test_the_head_learns_from_unknown_ids_alone_and_their_rows_learn_nothing() -> None:
    torch.manual_seed(0)
    model = DAT(SCHEMA, GENERATE, NEGATIVES)

    def learned(*unknown: str) -> dict[str, bool]:
        model.zero_grad()
        found = output(model, given(*unknown))
        # The losses' sums of unit vectors are not constant in each of them.
        (found.query_BD[:, 0].sum() + found.item_BD[:, 0].sum()).backward()
        return {name: bool(one.grad is not None and one.grad.any()) for name, one in heads(model)}

    assert not any(learned().values())
    for key, side in (("user", "query"), ("item", "item")):
        assert {name for name, does in learned(key).items() if does} == {
            name for name, _ in heads(model) if name.startswith(side)
        }
        assert model.augmented is not None
        for collection, table in ((model.embeddings, key), (model.augmented, f"augmented_{key}")):
            gradient = collection.embedding_bags[table].weight.grad
            assert gradient is not None
            # The row of the unknown stands in histories too, and learns from these.
            assert collection is model.embeddings or not gradient[UNKNOWN].any()
            assert gradient.any()
    gradient = model.embeddings.embedding_bags["user"].weight.grad
    assert gradient is not None
    assert not gradient[UNKNOWN].any()


def test_the_mimic_target_reaches_the_head_and_stops_before_the_other_tower() -> None:
    """Equation (2u) with â_u, and (2v) with â_v: no gradient into p."""
    torch.manual_seed(0)
    model = DAT(SCHEMA, GENERATE, NEGATIVES)
    found = output(model, given("user", "item"))
    assert found.augmented_user_BD is not None
    assert found.augmented_item_BD is not None
    loss = mimic(found.augmented_user_BD, found.item_BD, ROWS)
    loss = loss + mimic(found.augmented_item_BD, found.query_BD, ROWS)
    loss.backward()
    for name, one in model.named_parameters():
        if "generator" in name:
            assert one.grad is not None
            assert one.grad.any(), name
        if "tower" in name:
            assert one.grad is None, name


def test_an_empty_bag_holds_no_known_id() -> None:
    values, offsets = torch.tensor([3, UNKNOWN, 1]), torch.tensor([0, 1, 1, 2, 3, 3])
    assert known(values, offsets).tolist() == [[True], [False], [False], [True], [False]]
    assert known(values[:0], torch.zeros(3, dtype=torch.int64)).tolist() == [[False], [False]]


def test_where_nothing_stands_beside_the_id_there_is_no_head() -> None:
    features = tuple(one for one in SCHEMA.features if one.name != "history")
    model = DAT(replace(SCHEMA, features=features), GENERATE)
    assert model.query_generator is None
    assert model.item_generator is not None
