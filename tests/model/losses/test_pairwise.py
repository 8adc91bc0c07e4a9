"""Mean costs of scores cut into blocks: as the whole, whatever their size, and in their memory."""

import pytest
import torch
from torch import Tensor

from dat_rec.model.losses.blocks import BLOCK_SIZE, BlockSize
from dat_rec.model.losses.pairwise import hinge, mean_cost_of_products
from tests.model.losses.test_blockwise import Sizes
from tests.model.losses.vectors import D, unit

ITEMS = torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1])


def plainly(query: Tensor, candidate: Tensor, offset: Tensor) -> Tensor:
    """By autograd, with all scores at once."""
    score = query @ candidate.T + offset[:, None]
    other = ITEMS[: len(query), None] != ITEMS
    return torch.where(other, score.clamp(min=0), 0).sum(dim=1) @ (1 / other.sum(dim=1).double())


@pytest.mark.parametrize(
    "block",
    [
        BLOCK_SIZE["cpu"],
        # Rows are three cache lines long: two queries at a time, the last alone.
        BlockSize(2 * 24, 9, 2**10),
        # Rows of one line: two queries; five candidates and then four.
        BlockSize(2 * 8, 5, 2**10),
        BlockSize(1, 1, 1),
    ],
)
def test_cost_and_gradients_are_those_of_the_whole(
    block: BlockSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BLOCK_SIZE, "cpu", block)
    offset = torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (unit(7, D), unit(9, D, seed=9), offset)]
    found = mean_cost_of_products(*leaves, ITEMS[:7], ITEMS, hinge)
    expected = plainly(*leaves)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(3 * loss, leaves) for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert all(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize("queries", [0, 3])
@pytest.mark.parametrize("candidates", [0, 4])
def test_without_queries_or_other_items_it_costs_nothing(queries: int, candidates: int) -> None:
    leaves = [unit(n, D).requires_grad_() for n in (queries, candidates)]
    items = [torch.full((n,), 5) for n in (queries, candidates)]
    offset = torch.zeros(queries, dtype=torch.float64)
    loss = mean_cost_of_products(*leaves, offset, *items, hinge)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, leaves))


def test_no_tensor_is_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    block = BlockSize(2**14, 2**8, 2**26)
    monkeypatch.setitem(BLOCK_SIZE, "cpu", block)
    query, candidate = unit(256, D), unit(4096, D, seed=1)
    offset = torch.zeros(256, dtype=torch.float64)
    with Sizes() as sizes:
        mean_cost_of_products(
            query, candidate, offset, torch.arange(256), torch.arange(4096), hinge
        )
    assert sizes.most[True] <= 8 * max(block.logits, candidate.numel())
