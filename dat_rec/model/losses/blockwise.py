"""Cross entropy of inner products, a cache-sized block of logits at a time, with its gradients.

The (B, N) logits of a large batch fill memory, and reading them again takes longer than computing
them. So queries are taken in groups. For each group one block of candidates follows the other:
logits, softmax weights and what these add to the queries' gradients are computed while the block is
in the cache. The candidates' gradients wait until the totals are known. Until then the weights of
these queries are held, and the exponential is taken once. Logits are in bits, for a power of two
costs a third of one of e (benchmarks/LOG.md).

Where one bound of all logits is near enough, as for unit vectors at usual temperatures,
exponentials are relative to it. Else totals and gradients of queries are relative to the largest
logit so far, and are scaled down when a larger one comes (Milakov and Gimelshein,
arXiv:1805.02867).

Shapes: B queries in groups of R, N candidates in M blocks of C, D width of the vectors, E with the
columns of the offsets.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_rec.model.losses.accidental_hits import AccidentalHits
from dat_rec.model.losses.blocks import Blocks, cut

LOG2_E = math.log2(math.e)
"""Bits in one natural unit: logits times this are in bits."""
MOST_BELOW = 96.0
"""How many bits below the bound of all logits a query's own may be. What float32 cannot hold,
2^-126, is then less than its rounding beside the query's total."""


def cross_entropy_of_products(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    offset_B: Tensor,
    offset_N: Tensor,
    item_B: Tensor,
    item_N: Tensor,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Σ_i ω_i [log Σ_j exp(s_ij) − s_i], over the own positive and the candidates of other items.

    s_i = ⟨query_i, positive_i⟩ + offset_i, and s_ij = ⟨query_i, candidate_j⟩ + offset_j. Gradients
    flow into the three kinds of vectors, which are float of one dtype.

    Args:
        query_BD: (B, D).
        positive_BD: (B, D), each query's positive.
        candidate_ND: (N, D).
        offset_B: (B,) added to the positives' logits.
        offset_N: (N,) added to the candidates' logits.
        item_B: (B,) int64: which items the positives are.
        item_N: (N,) int64: which items the candidates are.
        weight_B: (B,) ω, of the vectors' dtype; None: all are 1.

    Returns:
        Scalar, a sum over the queries.
    """
    loss: Tensor = _CrossEntropyOfProducts.apply(  # type: ignore[no-untyped-call]
        query_BD, positive_BD, candidate_ND, offset_B, offset_N, item_B, item_N, weight_B
    )
    return loss


class _Weights(NamedTuple):
    """2^(logit − top) of R queries for one block of candidates, logits in bits."""

    block: slice
    """Which candidates."""
    weight_RC: Tensor
    top_R: Tensor
    """The largest logit of each query when this block was computed, in bits."""


class _Totals(NamedTuple):
    """What R queries know when they have seen all candidates."""

    weights: list[_Weights]
    """The weights of each block, each relative to its own top."""
    top_R: Tensor
    """The largest logit of each query, its own positive's included, in bits."""
    total_R: Tensor
    """Σ 2^(logit − top), the own positive included."""


class _CrossEntropyOfProducts(torch.autograd.Function):
    """``cross_entropy_of_products``: forward computes the gradients, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: Tensor,
        positive_BD: Tensor,
        candidate_ND: Tensor,
        offset_B: Tensor,
        offset_N: Tensor,
        item_B: Tensor,
        item_N: Tensor,
        weight_B: Tensor | None,
    ) -> Tensor:
        gradient_BD, gradient_ND = torch.zeros_like(query_BD), torch.zeros_like(candidate_ND)
        share_B = torch.empty_like(offset_B)
        bits_BD, bits_N = query_BD * LOG2_E, offset_N * LOG2_E
        own_B = (bits_BD * positive_BD).sum(dim=1) + offset_B * LOG2_E
        bound = _bound(bits_BD, candidate_ND, own_B, bits_N)
        if bound is not None:
            own_B, bits_N = own_B - bound, bits_N - bound
        # One column more adds the offsets to the products; four keep the rows of a GPU aligned.
        width, more = query_BD.shape[1], 1 if query_BD.device.type == "cpu" else 4
        bits_BE = F.pad(bits_BD, (0, more), value=1.0)
        candidate_NE = F.pad(candidate_ND, (0, more))
        candidate_NE[:, width] = bits_N
        loss = query_BD.new_zeros(())
        blocks = Blocks.of(query_BD, len(candidate_ND))
        hits = AccidentalHits(item_B, item_N, blocks)
        for group in blocks.groups(len(query_BD)):
            own_R, gradient_RD = own_B[group], gradient_BD[group]
            weights, top_R, total_R = _see_candidates(
                bits_BE[group],
                own_R,
                candidate_NE,
                blocks,
                hits,
                group,
                gradient_RD,
                bounded=bound is not None,
            )
            lost_R = top_R + total_R.log2() - own_R
            loss += (lost_R if weight_B is None else lost_R * weight_B[group]).sum()
            # ∂/∂logit = share of the total, of the own positive less 1.
            torch.div((own_R - top_R).exp2_(), total_R, out=share_B[group])
            gradient_RD.div_(total_R[:, None])
            # The last blocks are in the cache still.
            for block, weight_RC, its_top_R in reversed(weights):
                scale_R = (its_top_R - top_R).exp2_().div_(total_R)
                if weight_B is not None:
                    scale_R.mul_(weight_B[group])
                gradient_ND[block].addmm_(weight_RC.T, query_BD[group] * scale_R[:, None])
        error_B1 = (share_B - 1)[:, None]
        if weight_B is not None:
            gradient_BD.mul_(weight_B[:, None])
            error_B1.mul_(weight_B[:, None])
        gradient_BD.addcmul_(error_B1, positive_BD)
        ctx.save_for_backward(gradient_BD, error_B1 * query_BD, gradient_ND)
        return loss / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * gradient for saved in ctx.saved_tensors), None, None, None, None, None


def _bound(bits_BD: Tensor, candidate_ND: Tensor, own_B: Tensor, bits_N: Tensor) -> Tensor | None:
    """A bound of all logits, in bits; None where a query's total might vanish beside it.

    Who asks has to wait for the answer, so that there is none but on a CPU.
    """
    if bits_BD.device.type != "cpu" or not (len(own_B) and len(bits_N)):
        return None
    longest = bits_BD.norm(dim=1).max() * candidate_ND.norm(dim=1).max()
    bound = torch.maximum(longest + bits_N.max(), own_B.max())
    return bound if bool(own_B.min() > bound - MOST_BELOW) else None


def _see_candidates(
    bits_RE: Tensor,
    own_R: Tensor,
    candidate_NE: Tensor,
    blocks: Blocks,
    hits: AccidentalHits,
    group: slice,
    gradient_RD: Tensor,
    *,
    bounded: bool,
) -> _Totals:
    """Take R queries past all candidates, block after block.

    Args:
        bits_RE: (R, E) the queries, times ``LOG2_E``, and behind them ones.
        own_R: (R,) logits of their own positives, in bits.
        candidate_NE: (N, E) the candidates, behind them their offsets, in bits, and zeros.
        blocks: room for the logits, which the weights take up.
        hits: hides the accidental hits of a block.
        group: which of all queries these are.
        gradient_RD: takes up Σ_j weight_j · candidate_j, relative to the final top.
        bounded: whether no logit is above 0, which then stands for each query's largest.
    """
    top_R = torch.zeros_like(own_R) if bounded else own_R
    total_R = (own_R - top_R).exp2_()
    seen = []
    for block, logits_RS in zip(
        cut(len(candidate_NE), blocks.columns), blocks.logits_MRS, strict=True
    ):
        candidate_CE = candidate_NE[block]
        weight_RC = logits_RS[: len(bits_RE), : len(candidate_CE)]
        torch.mm(bits_RE, candidate_CE.T, out=weight_RC)
        hits.hide(logits_RS, group, block)
        if not bounded:
            before_R, top_R = top_R, torch.maximum(top_R, weight_RC.amax(dim=1))
            weight_RC.sub_(top_R[:, None])
            shrink_R = (before_R - top_R).exp2_()
            total_R.mul_(shrink_R)
            gradient_RD.mul_(shrink_R[:, None])
        weight_RC.exp2_()
        total_R.add_(weight_RC.sum(dim=1))
        gradient_RD.addmm_(weight_RC, candidate_CE[:, : gradient_RD.shape[1]])
        seen.append(_Weights(block, weight_RC, top_R))
    return _Totals(seen, top_R, total_R)
