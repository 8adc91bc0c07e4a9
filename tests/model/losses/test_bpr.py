"""Bayesian personalised ranking against loops, and its gradients."""

import math

import pytest
import torch
from torch import Tensor

from dat_rec.model.losses import bayesian_personalised_ranking
from tests.model.losses.vectors import B, D, S, known, unit


def by_loops(
    query: Tensor, candidate: Tensor, own: list[int], items: list[int], tau: float
) -> float:
    """Each query's positive is the candidate of its number."""
    total = 0.0
    for i, item in enumerate(own):
        positive = float(query[i] @ candidate[i])
        others = [float(query[i] @ candidate[j]) for j in range(len(items)) if items[j] != item]
        costs = [-math.log(1 / (1 + math.exp((score - positive) / tau))) for score in others]
        total += sum(costs) / len(others) if others else 0
    return total / len(own)


@pytest.mark.parametrize("tau", [0.05, 1.0])
@pytest.mark.parametrize(
    "items", [[5, 6, 7, 1, 2, 3, 4, 5], [5, 6, 7, 5, 5, 5, 6, 7], [5, 5, 5, 5, 5, 5, 5, 5]]
)
def test_it_is_the_mean_over_the_other_items_however_many(items: list[int], tau: float) -> None:
    query, candidate = unit(3, D), unit(8, D, seed=1)
    own = known(items[:3])
    found = bayesian_personalised_ranking(
        query, candidate[:3], candidate, own, known(items), 3, tau
    )
    assert found.item() == pytest.approx(
        by_loops(query, candidate, items[:3], items, tau), abs=1e-12
    )


def test_equal_scores_cost_ln_2() -> None:
    query, candidate = torch.ones(2, 1), torch.ones(6, 1)
    items = known([0, 1]), known(list(range(6)))
    loss = bayesian_personalised_ranking(query, candidate[:2], candidate, *items, 2, 0.1)
    assert loss.item() == pytest.approx(math.log(2))


def test_far_apart_scores_cost_their_difference_or_nothing() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    candidate = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    for own, expected in ((0, 2e4), (1, 0.0)):
        items = known([own]), known([0, 1])
        positive = candidate[own : own + 1]
        loss = bayesian_personalised_ranking(query, positive, candidate, *items, 1, 1e-4)
        assert loss.item() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(loss, query)
        torch.testing.assert_close(gradient, torch.tensor([[expected, 0.0]]))


def test_gradients_agree_with_differences() -> None:
    query = unit(B, D).requires_grad_()
    item = unit(B, 1 + S, D, seed=1).requires_grad_()
    items = torch.randint(0, 9, (B * (1 + S),), generator=torch.manual_seed(5))

    def bpr(query: Tensor, item: Tensor) -> Tensor:
        own = known(items[:: 1 + S].contiguous())
        every = item.flatten(0, 1)
        return bayesian_personalised_ranking(query, item[:, 0], every, own, known(items), B, 0.2)

    assert torch.autograd.gradcheck(bpr, (query, item))
