"""Cross entropy of inner products by two Triton kernels, for GPUs: no logit leaves the chip.

The same sum and gradients as ``blockwise.py``. The first kernel takes some queries past all
candidates: the running top and total of each row's softmax, and what its weights add to the
queries' gradients. The second takes some candidates past all queries, and computes the logits once
more, since totals are known now; a product more than in blocks, but nothing is written or read in
between (Dao et al., FlashAttention, arXiv:2205.14135, whose values here are the candidates
themselves). Products are float32 throughout (``ieee``, not TF32).

Shapes: B queries, N candidates, D width of the vectors.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = math.log2(math.e)
ROWS, COLUMNS = 64, 64
"""Queries and candidates of a tile of logits."""
LEAST_WIDTH = 16
"""Columns that a product on the chip must have at least."""


def fused_cross_entropy_of_products(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    offset_B: Tensor,
    offset_N: Tensor,
    item_B: Tensor,
    item_N: Tensor,
    weight_B: Tensor | None = None,
) -> Tensor:
    """``blockwise.cross_entropy_of_products`` of float32 vectors on a GPU."""
    loss: Tensor = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        query_BD, positive_BD, candidate_ND, offset_B, offset_N, item_B, item_N, weight_B
    )
    return loss


class _FusedCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients, backward scales them."""

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
        query_BD, candidate_ND = query_BD.contiguous(), candidate_ND.contiguous()
        (queries, width), candidates = query_BD.shape, len(candidate_ND)
        bits_BD, bits_N = query_BD * LOG2_E, offset_N * LOG2_E
        own_B = (bits_BD * positive_BD).sum(dim=1) + offset_B * LOG2_E
        seen = (bits_BD, candidate_ND, bits_N, item_B.contiguous(), item_N.contiguous())
        total_B = torch.empty_like(own_B)
        gradient_BD, gradient_ND = torch.empty_like(query_BD), torch.empty_like(candidate_ND)
        block_d = max(LEAST_WIDTH, triton.next_power_of_2(width))
        sizes: dict[str, Any] = {"width": width, "R": ROWS, "C": COLUMNS, "W": block_d}
        _see_candidates[(triton.cdiv(queries, ROWS),)](
            *seen, own_B, total_B, gradient_BD, queries, candidates, **sizes
        )
        given_B = total_B if weight_B is None else weight_B.contiguous()
        weighs = weight_B is not None
        _see_queries[(triton.cdiv(candidates, COLUMNS),)](
            *seen, total_B, query_BD, given_B, gradient_ND, queries, candidates, weighs, **sizes
        )
        lost_B = total_B - own_B
        # ∂/∂logit = share of the total, of the own positive less 1.
        error_B = (own_B - total_B).exp2_().sub_(1)
        if weight_B is not None:
            lost_B, error_B = lost_B * weight_B, error_B * weight_B
            gradient_BD *= weight_B[:, None]
        gradient_BD.addcmul_(error_B[:, None], positive_BD)
        ctx.save_for_backward(gradient_BD, error_B[:, None] * query_BD, gradient_ND)
        return lost_B.sum() / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * gradient for saved in ctx.saved_tensors), None, None, None, None, None


@triton.jit  # type: ignore[untyped-decorator]
def _see_candidates(  # type: ignore[no-untyped-def]
    bits_BD,
    candidate_ND,
    bits_N,
    item_B,
    item_N,
    own_B,
    total_B,
    gradient_BD,
    queries,
    candidates,
    width: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
):
    row_R = tl.program_id(0) * R + tl.arange(0, R)
    column_W = tl.arange(0, W)
    there_R = row_R < queries
    tile_RW = row_R[:, None] * width + column_W[None, :]
    mask_RW = there_R[:, None] & (column_W < width)[None, :]
    bits_RW = tl.load(bits_BD + tile_RW, mask=mask_RW, other=0.0)
    top_R = tl.load(own_B + row_R, mask=there_R, other=0.0)
    own_R = tl.load(item_B + row_R, mask=there_R, other=-1)
    total_R = tl.full((R,), 1.0, tl.float32)
    sum_RW = tl.zeros((R, W), tl.float32)
    for begin in range(0, candidates, C):
        number_C = begin + tl.arange(0, C)
        there_C = number_C < candidates
        tile_CW = number_C[:, None] * width + column_W[None, :]
        mask_CW = there_C[:, None] & (column_W < width)[None, :]
        candidate_CW = tl.load(candidate_ND + tile_CW, mask=mask_CW, other=0.0)
        offset_C = tl.load(bits_N + number_C, mask=there_C, other=0.0)
        item_C = tl.load(item_N + number_C, mask=there_C, other=-1)
        logit_RC = tl.dot(bits_RW, tl.trans(candidate_CW), input_precision="ieee")
        logit_RC += offset_C[None, :]
        negative_RC = there_C[None, :] & (item_C[None, :] != own_R[:, None])
        logit_RC = tl.where(negative_RC, logit_RC, float("-inf"))
        before_R = top_R
        top_R = tl.maximum(top_R, tl.max(logit_RC, 1))
        shrink_R = tl.exp2(before_R - top_R)
        weight_RC = tl.exp2(logit_RC - top_R[:, None])
        total_R = total_R * shrink_R + tl.sum(weight_RC, 1)
        sum_RW *= shrink_R[:, None]
        sum_RW += tl.dot(weight_RC, candidate_CW, input_precision="ieee")
    tl.store(total_B + row_R, top_R + tl.log2(total_R), mask=there_R)
    tl.store(gradient_BD + tile_RW, sum_RW / total_R[:, None], mask=mask_RW)


@triton.jit  # type: ignore[untyped-decorator]
def _see_queries(  # type: ignore[no-untyped-def]
    bits_BD,
    candidate_ND,
    bits_N,
    item_B,
    item_N,
    total_B,
    query_BD,
    weight_B,
    gradient_ND,
    queries,
    candidates,
    weighs: tl.constexpr,
    width: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    W: tl.constexpr,
):
    number_C = tl.program_id(0) * C + tl.arange(0, C)
    column_W = tl.arange(0, W)
    there_C = number_C < candidates
    tile_CW = number_C[:, None] * width + column_W[None, :]
    mask_CW = there_C[:, None] & (column_W < width)[None, :]
    candidate_CW = tl.load(candidate_ND + tile_CW, mask=mask_CW, other=0.0)
    offset_C = tl.load(bits_N + number_C, mask=there_C, other=0.0)
    item_C = tl.load(item_N + number_C, mask=there_C, other=-1)
    sum_CW = tl.zeros((C, W), tl.float32)
    for begin in range(0, queries, R):
        row_R = begin + tl.arange(0, R)
        there_R = row_R < queries
        tile_RW = row_R[:, None] * width + column_W[None, :]
        mask_RW = there_R[:, None] & (column_W < width)[None, :]
        bits_RW = tl.load(bits_BD + tile_RW, mask=mask_RW, other=0.0)
        query_RW = tl.load(query_BD + tile_RW, mask=mask_RW, other=0.0)
        own_R = tl.load(item_B + row_R, mask=there_R, other=-1)
        total_R = tl.load(total_B + row_R, mask=there_R, other=float("inf"))
        logit_RC = tl.dot(bits_RW, tl.trans(candidate_CW), input_precision="ieee")
        logit_RC += offset_C[None, :]
        negative_RC = there_R[:, None] & (item_C[None, :] != own_R[:, None])
        share_RC = tl.where(negative_RC, tl.exp2(logit_RC - total_R[:, None]), 0.0)
        if weighs:
            weight_R = tl.load(weight_B + row_R, mask=there_R, other=0.0)
            share_RC *= weight_R[:, None]
        sum_CW += tl.dot(tl.trans(share_RC), query_RW, input_precision="ieee")
    tl.store(gradient_ND + tile_CW, sum_CW, mask=mask_CW)
