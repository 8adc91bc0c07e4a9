"""The sampled softmax against hand-written NumPy loops in float64, and its gradients."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.stream.batch import Items
from dat_rec.model.losses import sampled_softmax
from tests.model.losses.vectors import B, D, S, known, unit

Array = NDArray[np.float64]


def softmax_by_loops(
    query: Array,
    positive: Array,
    candidate: Array,
    items: tuple[Items, Items],
    tau: float,
) -> float:
    total = 0.0
    for i in range(len(query)):
        own = float(query[i] @ positive[i]) / tau + float(items[0].offset[i])
        logits = [own]
        for j in range(len(candidate)):
            if items[1].index[j] != items[0].index[i]:
                score = float(query[i] @ candidate[j])
                logits.append(score / tau + float(items[1].offset[j]))
        total -= own - math.log(sum(math.exp(value) for value in logits))
    return total / len(query)


def test_sampled_softmax_corrects_and_masks() -> None:
    query, positive, candidate = unit(3, D), unit(3, D, seed=2), unit(8, D, seed=1)
    offset = torch.randn(11, dtype=torch.float64, generator=torch.manual_seed(4))
    items = known([10, 14, 11], offset[:3]), known([10, 11, 10, 12, 12, 11, 13, 10], offset[3:])
    found = sampled_softmax(query, positive, candidate, *items, 3, 0.3)
    vectors = (query.numpy(), positive.numpy(), candidate.numpy())
    expected = softmax_by_loops(*vectors, items, 0.3)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_an_own_positive_among_the_candidates_counts_once() -> None:
    query, candidate = unit(3, D), unit(8, D, seed=1)
    items = known([5, 6, 7]), known([5, 6, 7, 1, 2, 3, 4, 5])
    among = sampled_softmax(query, candidate[:3], candidate, *items, 3, 0.3)
    others = [[1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6, 7], [0, 1, 3, 4, 5, 6, 7]]
    apart = [
        sampled_softmax(
            query[i : i + 1],
            candidate[i : i + 1],
            candidate[rest],
            known([5 + i]),
            known(items[1].index[rest]),
            3,
            0.3,
        )
        for i, rest in enumerate(others)
    ]
    assert among.item() == pytest.approx(sum(loss.item() for loss in apart), abs=1e-12)


def test_sampled_softmax_of_equal_scores_is_ln_n() -> None:
    query = torch.ones(2, 1, dtype=torch.float64)
    candidate = torch.ones(6, 1, dtype=torch.float64)
    items = known([0, 1]), known(list(range(6)))
    loss = sampled_softmax(query, candidate[:2], candidate, *items, 2, 0.1)
    assert loss.item() == pytest.approx(math.log(6), abs=1e-12)


def test_a_hit_far_above_all_that_counts_does_not_count() -> None:
    """As where id dropout embeds a positive otherwise than its item among the candidates."""
    query = torch.tensor([[1.0, 0.0]])
    positive = torch.tensor([[-0.1, 0.99**0.5]]).requires_grad_()
    candidate = torch.tensor([[1.0, 0.0], [-0.2, 0.96**0.5]]).requires_grad_()
    items = known([3]), known([3, 4])
    loss = sampled_softmax(query, positive, candidate, *items, 1, 0.01)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-2)
    for gradient in torch.autograd.grad(loss, (positive, candidate)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("candidates", [2, 0])
def test_without_other_items_the_softmax_costs_nothing(candidates: int) -> None:
    query, positive = unit(2, D).requires_grad_(), unit(2, D, seed=1).requires_grad_()
    items = known([3, 3]), known([3] * candidates)
    loss = sampled_softmax(query, positive, positive[:candidates], *items, 2, 0.1)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, (query, positive)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_parts_of_the_queries_add_up_to_the_whole_and_none_add_nothing() -> None:
    query, candidate, items = (
        unit(B, D),
        unit(9, D, seed=2),
        torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1]),
    )
    offset = torch.arange(9, dtype=torch.float64)

    def loss(part: slice) -> Tensor:
        own = known(items[:B][part], offset[:B][part])
        return sampled_softmax(
            query[part], candidate[:B][part], candidate, own, known(items, offset), B, 0.3
        )

    parts = [loss(part) for part in (slice(0, 3), slice(3, 3), slice(3, B))]
    torch.testing.assert_close(sum(parts), loss(slice(None)), rtol=0, atol=1e-12)
    assert parts[1].item() == 0


def test_gradients_agree_with_differences() -> None:
    query = unit(B, D).requires_grad_()
    item = unit(B, 1 + S, D, seed=1).requires_grad_()
    items = torch.randint(0, 9, (B * (1 + S),), generator=torch.manual_seed(5))

    def softmax(query: Tensor, item: Tensor) -> Tensor:
        own = known(items[:: 1 + S].contiguous())
        return sampled_softmax(query, item[:, 0], item.flatten(0, 1), own, known(items), B, 0.2)

    assert torch.autograd.gradcheck(softmax, (query, item))
