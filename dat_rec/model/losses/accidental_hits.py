"""Accidental hits: candidates that are a query's own item, and so no negatives.

In a batch, or among draws from the catalogue, a query's positive comes again. Counted as a
negative, it would push apart what the loss pulls together; its logit is −∞ instead.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dat_rec.model.losses.blocks import Blocks

NO_ITEM = -1
"""Fills the last block of candidates; no query's item."""


class _Runs(NamedTuple):
    """Where each query's item stands in each block's sorted items; M blocks, B queries."""

    first_MB: Tensor
    """Position of the item's first occurrence."""
    count_MB: Tensor
    """Number of occurrences, which follow it."""
    order_MC: Tensor
    """The candidate of each position."""


class AccidentalHits:
    """Gives the logits of accidental hits the value −∞, block after block.

    A CPU is told where they stand: there are few. How many is what the host of another device would
    have to wait for, so that there each logit is asked.

    Args:
        item_B: (B,) int64: the queries' own items.
        item_N: (N,) int64: the candidates' items.
        blocks: how the logits are cut.
    """

    def __init__(self, item_B: Tensor, item_N: Tensor, blocks: Blocks) -> None:
        self._item_B, self._item_N = item_B, item_N
        self._positions: Iterator[Tensor] | None = None
        if item_B.device.type == "cpu":
            self._positions = hit_positions(item_B, item_N, blocks.columns, blocks.logits_MRS)

    def hide(self, logits_RS: Tensor, group: slice, block: slice) -> None:
        """Give the block's hits −∞.

        Args:
            logits_RS: of R queries; candidates in the first columns.
            group: which queries: on a CPU the first R, block after block, and then the next R.
            block: which candidates.
        """
        if self._positions is not None:
            logits_RS.view(-1).index_fill_(0, next(self._positions), float("-inf"))
            return
        item_R1, item_C = self._item_B[group, None], self._item_N[block]
        logits_RS[: len(item_R1), : len(item_C)].masked_fill_(item_R1 == item_C, float("-inf"))


def hit_positions(
    item_B: Tensor, item_N: Tensor, columns: int, logits_MRS: Tensor
) -> Iterator[Tensor]:
    """Where the logits of accidental hits stand, for one group of queries and block at a time.

    A block's hits are listed only when it is asked for: where many candidates are one item, those
    of all queries would take many times the memory of all blocks' logits.

    Args:
        item_B: (B,) int64: the queries' own items.
        item_N: (N,) int64: the candidates' items.
        columns: candidates of a block.
        logits_MRS: room for M blocks of R queries, as ``blockwise`` makes it.

    Yields:
        (H,) int64: positions in a flattened block (R, S): for the first R queries block after
        block, then for the next R.
    """
    blocks, rows, stride = logits_MRS.shape
    runs = _runs(item_B, item_N, blocks, columns)
    groups = [each.split(rows, dim=1) for each in (runs.first_MB, runs.count_MB)]
    totals = torch.stack([count_MR.sum(dim=1) for count_MR in groups[1]]).tolist()
    begin_R = torch.arange(rows, device=item_B.device) * stride
    for first_MR, count_MR, totals_M in zip(*groups, totals, strict=True):
        for first_R, count_R, order_C, total in zip(
            first_MR, count_MR, runs.order_MC, totals_M, strict=True
        ):
            yield _positions(first_R, count_R, order_C, begin_R[: len(count_R)], total)


def other_candidates(item_B: Tensor, item_N: Tensor) -> Tensor:
    """(B,) int64: for each query, the number of candidates that are no hits.

    Args:
        item_B: (B,) int64: the queries' own items.
        item_N: (N,) int64: the candidates' items.
    """
    return len(item_N) - _runs(item_B, item_N, 1, len(item_N)).count_MB[0]


def _runs(item_B: Tensor, item_N: Tensor, blocks: int, columns: int) -> _Runs:
    """Sort each block's items once, so that all occurrences of an item are one run."""
    lacking = blocks * columns - len(item_N)
    item_MC = F.pad(item_N, (0, lacking), value=NO_ITEM).view(blocks, columns)
    sorted_MC, order_MC = item_MC.sort(dim=1)
    item_MB = item_B.expand(blocks, -1).contiguous()
    first_MB = torch.searchsorted(sorted_MC, item_MB)
    count_MB = torch.searchsorted(sorted_MC, item_MB, right=True).sub_(first_MB)
    return _Runs(first_MB, count_MB, order_MC)


def _positions(
    first_R: Tensor, count_R: Tensor, order_C: Tensor, begin_R: Tensor, total: int
) -> Tensor:
    """The hits of R queries in one block: each query's row begin, plus the candidate's column."""
    shift_R = first_R - count_R.cumsum(0) + count_R
    shift_H, begin_H = (
        torch.repeat_interleave(each_R, count_R, output_size=total) for each_R in (shift_R, begin_R)
    )
    position_H = torch.arange(total, device=count_R.device).add_(shift_H)
    return begin_H.add_(order_C[position_H])
