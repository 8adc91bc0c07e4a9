"""The softmax cut into blocks: as the whole, whatever their size, and in their memory."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dat_rec.model.losses import blockwise, sampled_softmax
from dat_rec.model.losses.blocks import BLOCK_SIZE, BlockSize
from tests.model.losses.vectors import D, known, unit


class Sizes(TorchDispatchMode):
    """Bytes of the largest tensor that an operation makes, of floats (True) and others (False)."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[bool, int] = {True: 0, False: 0}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        found = function(*arguments, **(named or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Tensor):
                whole = one.is_floating_point()
                # A tensor that is expanded has fewer than it has numbers.
                size = min(one.numel() * one.element_size(), one.untyped_storage().nbytes())
                self.most[whole] = max(self.most[whole], size)
        return found


@pytest.mark.parametrize(
    "block",
    [
        # Rows are three cache lines long: two queries at a time, the last alone.
        BlockSize(2 * 24, 9, 2**10),
        # Rows of one line: two queries; five candidates and then four.
        BlockSize(2 * 8, 5, 2**10),
        # As many logits as one query has.
        BlockSize(2 * 8, 5, 2 * 8),
    ],
)
@pytest.mark.parametrize("rising", [1, -1])
@pytest.mark.parametrize("bounded", [True, False])
def test_sampled_softmax_in_blocks_has_the_gradient_of_the_whole(
    block: BlockSize, rising: int, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether one bound of all logits stands for each query's largest or not."""

    def gradients() -> tuple[Tensor, ...]:
        leaves = [unit(n, D, seed=n).requires_grad_() for n in (7, 8, 9)]
        query, positive, candidate = leaves[0], leaves[1][:7], leaves[2]
        items = torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1])
        offset = rising * torch.arange(9, dtype=torch.float64)
        softmax = sampled_softmax(
            query, positive, candidate, known(items[:7], offset[:7]), known(items, offset), 7, 0.3
        )
        return softmax.detach(), *torch.autograd.grad(3 * softmax, leaves)

    whole = gradients()
    monkeypatch.setitem(BLOCK_SIZE, "cpu", block)
    if not bounded:
        monkeypatch.setattr(blockwise, "MOST_BELOW", -math.inf)
    torch.testing.assert_close(gradients(), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_hits_take_no_more_memory_than_a_block_of_logits_however_many_there_are(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed for all queries at once they were 40 bytes each: 150 times a block's logits here."""
    block = BlockSize(2**14, 2**8, 2**26)
    monkeypatch.setitem(BLOCK_SIZE, "cpu", block)
    queries, candidates = 256, 4096
    query, candidate = unit(queries, D), unit(candidates, D, seed=1)
    items = torch.arange(candidates)
    items[torch.rand(candidates, generator=torch.manual_seed(2)) < share] = 0
    own = torch.zeros(queries, dtype=torch.int64)
    with Sizes() as sizes:
        loss = sampled_softmax(
            query, candidate[:queries], candidate, known(own), known(items), queries, 0.3
        )
    assert sizes.most[False] <= 8 * block.logits
    logits = query @ candidate.T / 0.3
    logits[:, items == 0] = -math.inf
    mine = (query * candidate[:queries]).sum(dim=1, keepdim=True) / 0.3
    expected = (torch.cat([mine, logits], dim=1).logsumexp(dim=1) - mine[:, 0]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("candidates", [2, 1])
def test_sampled_softmax_holds_for_far_apart_logits(
    candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BLOCK_SIZE, "cpu", BlockSize(2**10, candidates, 2**10))
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    candidate = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    for own, expected in ((0, 2e4), (1, 0.0)):
        items = known([own]), known([0, 1])
        loss = sampled_softmax(query, candidate[own : own + 1], candidate, *items, 1, 1e-4)
        assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_a_query_far_below_the_others_keeps_its_loss_in_float32() -> None:
    """Beside the first query's own positive at 1/τ, the second's own at −1/τ is 2^-577."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positive = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    candidate = torch.tensor([[0.0, -1.0], [0.0, -1.0]])
    items = known([0, 1]), known([1, 2])
    loss = sampled_softmax(query, positive, candidate, *items, 2, 5e-3)
    assert loss.item() == pytest.approx(math.log(2) / 2, abs=1e-6)
