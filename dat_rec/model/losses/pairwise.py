"""Mean cost of the other items' scores, a cache-sized block of them at a time, with its gradients.

What ``contrastive.py`` and ``bpr.py`` have in common: each candidate costs something by itself, so
that, other than in the softmax, no block has to wait for the others.

Shapes: B queries in groups of R, N candidates in blocks of C, D width of the vectors.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_rec.model.losses.accidental_hits import AccidentalHits, other_candidates
from dat_rec.model.losses.blocks import Blocks, cut

Cost = Callable[[Tensor], Tensor]
"""Replaces scores (R, C) by the derivatives of what they cost, in place, and returns the sum (R,)
of what they cost. A score of −∞ costs nothing, and its derivative is 0."""


def hinge(score_RC: Tensor) -> Tensor:
    """max(0, s), as a ``Cost``."""
    cost_R = score_RC.clamp_(min=0).sum(dim=1)
    score_RC.sign_()
    return cost_R


def softplus(score_RC: Tensor) -> Tensor:
    """log(1 + exp(s)), as a ``Cost``."""
    cost_R = F.softplus(score_RC).sum(dim=1)
    score_RC.sigmoid_()
    return cost_R


def mean_cost_of_products(
    query_BD: Tensor,
    candidate_ND: Tensor,
    offset_B: Tensor,
    item_B: Tensor,
    item_N: Tensor,
    cost: Cost,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Σ_i ω_i/|N_i| Σ_j cost(⟨query_i, candidate_j⟩ + offset_i), over candidates of other items.

    N_i are the candidates that are not the query's own item; a query without any costs nothing.
    Gradients flow into both kinds of vectors, float of one dtype, and into the offsets.

    Args:
        query_BD: (B, D).
        candidate_ND: (N, D).
        offset_B: (B,) added to all scores of a query.
        item_B: (B,) int64: which items the positives are.
        item_N: (N,) int64: which items the candidates are.
        cost: of a score.
        weight_B: (B,) ω, of the vectors' dtype; None: all are 1.

    Returns:
        Scalar, a sum over the queries.
    """
    loss: Tensor = _MeanCostOfProducts.apply(  # type: ignore[no-untyped-call]
        query_BD, candidate_ND, offset_B, item_B, item_N, cost, weight_B
    )
    return loss


class _MeanCostOfProducts(torch.autograd.Function):
    """``mean_cost_of_products``: forward computes the gradients, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: Tensor,
        candidate_ND: Tensor,
        offset_B: Tensor,
        item_B: Tensor,
        item_N: Tensor,
        cost: Cost,
        weight_B: Tensor | None,
    ) -> Tensor:
        gradient_BD, gradient_ND = torch.zeros_like(query_BD), torch.zeros_like(candidate_ND)
        cost_B, slope_B = torch.zeros_like(offset_B), torch.zeros_like(offset_B)
        share_B = other_candidates(item_B, item_N).clamp(min=1).to(query_BD.dtype).reciprocal()
        if weight_B is not None:
            share_B.mul_(weight_B)
        blocks = Blocks.of(query_BD, len(candidate_ND), held=False)
        hits = AccidentalHits(item_B, item_N, blocks)
        for group in blocks.groups(len(query_BD)):
            query_RD, offset_R1 = query_BD[group], offset_B[group, None]
            weighted_RD = query_RD * share_B[group, None]
            for block, logits_RS in zip(
                cut(len(candidate_ND), blocks.columns), blocks.logits_MRS, strict=True
            ):
                candidate_CD = candidate_ND[block]
                score_RC = logits_RS[: len(query_RD), : len(candidate_CD)]
                torch.addmm(offset_R1, query_RD, candidate_CD.T, out=score_RC)
                hits.hide(logits_RS, group, block)
                cost_B[group] += cost(score_RC)
                slope_B[group] += score_RC.sum(dim=1)
                gradient_BD[group].addmm_(score_RC, candidate_CD)
                gradient_ND[block].addmm_(score_RC.T, weighted_RD)
        ctx.save_for_backward(
            gradient_BD.mul_(share_B[:, None]), gradient_ND, slope_B.mul_(share_B)
        )
        return cost_B.mul_(share_B).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * gradient for saved in ctx.saved_tensors), None, None, None, None
