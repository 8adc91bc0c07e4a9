"""The cosine contrastive loss against loops, and its gradients."""

import pytest
import torch
from torch import Tensor

from dat_rec.model.losses import cosine_contrastive
from tests.model.losses.vectors import B, D, S, known, unit


def by_loops(
    query: Tensor, candidate: Tensor, own: list[int], items: list[int], margin: float, weight: float
) -> float:
    """Each query's positive is the candidate of its number."""
    total = 0.0
    for i, item in enumerate(own):
        others = [float(query[i] @ candidate[j]) for j in range(len(items)) if items[j] != item]
        costs = [max(0.0, score - margin) for score in others]
        total += 1 - float(query[i] @ candidate[i])
        if others:
            total += weight * sum(costs) / len(others)
    return total / len(own)


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize(
    "items", [[5, 6, 7, 1, 2, 3, 4, 5], [5, 6, 7, 5, 5, 5, 6, 7], [5, 5, 5, 5, 5, 5, 5, 5]]
)
def test_it_is_the_mean_over_the_other_items_however_many(items: list[int], margin: float) -> None:
    query, candidate = unit(3, D), unit(8, D, seed=1)
    own = known(items[:3])
    found = cosine_contrastive(query, candidate[:3], candidate, own, known(items), 3, margin, 7.0)
    expected = by_loops(query, candidate, items[:3], items, margin, 7.0)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_orthogonal_vectors_cost_1() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    items = known([1]), known([2, 3])
    assert cosine_contrastive(eye[:1], eye[1:2], eye[2:], *items, 1, 0.0, 150.0).item() == 1


def test_a_negative_below_the_margin_gets_no_gradient() -> None:
    query = torch.tensor([[1.0, 0.0]])
    candidate = torch.tensor([[0.6, 0.8], [0.8, 0.6]]).requires_grad_()
    loss = cosine_contrastive(query, query, candidate, known([0]), known([1, 2]), 1, 0.7, 10.0)
    assert loss.item() == pytest.approx(10 * 0.1 / 2)
    (gradient,) = torch.autograd.grad(loss, candidate)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [5.0, 0.0]]))


def test_gradients_agree_with_differences() -> None:
    query = unit(B, D).requires_grad_()
    item = unit(B, 1 + S, D, seed=1).requires_grad_()
    items = torch.randint(0, 9, (B * (1 + S),), generator=torch.manual_seed(5))

    def contrastive(query: Tensor, item: Tensor) -> Tensor:
        own = known(items[:: 1 + S].contiguous())
        every = item.flatten(0, 1)
        return cosine_contrastive(query, item[:, 0], every, own, known(items), B, 0.1, 3.0)

    assert torch.autograd.gradcheck(contrastive, (query, item))
