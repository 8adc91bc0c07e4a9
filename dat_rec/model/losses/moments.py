"""Moments of each category's item vectors: what equation (3) needs of a batch, rank by rank.

Number, sum and sum of outer products add up over ranks, so that covariances of the global batch
come of one all-reduce, and no rank sees another's items.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 32
"""Items of one category that one small matrix product sums up."""
MOST_MOMENTS = 2**20
"""Maximum number of values in the outer products of all compared categories: what ranks exchange
in a step."""
FEWEST_COMPARED = 64
"""Number of categories that are compared however wide the vectors are."""


def max_categories(width: int) -> int:
    """Maximum number of categories that equation (3) compares: 1024 for D = 32, 64 from 128 on.

    The moments of a category are D² numbers, which all ranks exchange in each step, whether the
    batch has items of it or not; and covariances of the few items that a batch has of one category
    in thousands are noise. So the rest is compared with none, and adds nothing.

    Args:
        width: D.
    """
    return max(FEWEST_COMPARED, MOST_MOMENTS // width**2)


class CategoryMoments(NamedTuple):
    """Sums over the items of each category; they add up over ranks."""

    count_K: Tensor
    """(K,) number of items, in the vectors' dtype, so that all three can be sent alike."""
    sum_KD: Tensor
    """(K, D) Σ p."""
    outer_KDD: Tensor
    """(K, D, D) Σ p pᵀ."""


def category_moments(item_ND: Tensor, category_N: Tensor, categories: int) -> CategoryMoments:
    """Count, sum and sum of outer products of the items of each category.

    Sorted by category and cut into blocks of one category each, the outer products are a
    batch of small matrix products: (N, D, D) numbers are never made. Gradients flow into the
    vectors from both sums.

    Args:
        item_ND: (N, D) p_v, float.
        category_N: (N,) int64, category of each item, in [0, categories).
        categories: K, the unknown category 0 included.
    """
    # Not counted by bincount, which looks for the largest value: the host of a GPU would wait.
    sorted_N, order_N = category_N.sort(stable=True)
    bound_K = torch.arange(categories, device=category_N.device)
    count_K = torch.searchsorted(sorted_N, bound_K, right=True).diff(prepend=bound_K[:1])
    sums: tuple[Tensor, Tensor] = _SumsByCategory.apply(  # type: ignore[no-untyped-call]
        item_ND, sorted_N, order_N, count_K
    )
    return CategoryMoments(count_K.to(item_ND.dtype), *sums)


class _SumsByCategory(torch.autograd.Function):
    """Σ p and Σ p pᵀ of each category, with the gradient written out: one product, not two."""

    @staticmethod
    def forward(
        ctx: Any, item_ND: Tensor, sorted_N: Tensor, order_N: Tensor, count_K: Tensor
    ) -> tuple[Tensor, Tensor]:
        width, categories = item_ND.shape[1], len(count_K)
        slot_N, category_M = _blocks_of_one_category(sorted_N, count_K)
        blocks = len(category_M)
        block_MRD = (
            item_ND.new_zeros(blocks * BLOCK, width)
            .index_copy_(0, slot_N, item_ND.index_select(0, order_N))
            .view(blocks, BLOCK, width)
        )
        outer_ME = torch.bmm(block_MRD.transpose(1, 2), block_MRD).flatten(1)
        zeros = item_ND.new_zeros
        sum_KD = zeros(categories, width).index_add_(0, category_M, block_MRD.sum(dim=1))
        outer_KE = zeros(categories, width * width).index_add_(0, category_M, outer_ME)
        ctx.save_for_backward(block_MRD, category_M, order_N, slot_N)
        return sum_KD, outer_KE.view(categories, width, width)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient_KD: Tensor, gradient_KDD: Tensor
    ) -> tuple[Tensor, None, None, None]:
        block_MRD, category_M, order_N, slot_N = ctx.saved_tensors
        both_KDD = gradient_KDD + gradient_KDD.transpose(1, 2)
        gradient_MRD = torch.baddbmm(
            gradient_KD.index_select(0, category_M).unsqueeze(1),
            block_MRD,
            both_KDD.index_select(0, category_M),
        )
        sorted_ND = gradient_MRD.flatten(0, 1).index_select(0, slot_N)
        return torch.empty_like(sorted_ND).index_copy_(0, order_N, sorted_ND), None, None, None


def _blocks_of_one_category(sorted_N: Tensor, count_K: Tensor) -> tuple[Tensor, Tensor]:
    """Give each category as many blocks as its items fill, of items that are sorted by category.

    Returns:
        (N,) the slot of each item in M blocks of ``BLOCK`` slots, and (M,) each block's category.
        M depends on shapes alone, so that a GPU need not be waited for; blocks that are left over
        stay empty, whatever category they are given.
    """
    items, categories = len(sorted_N), len(count_K)
    device = sorted_N.device
    blocks_K = (count_K + BLOCK - 1) // BLOCK
    end_K = blocks_K.cumsum(0)
    first_K = (end_K - blocks_K) * BLOCK - count_K.cumsum(0) + count_K
    slot_N = first_K[sorted_N] + torch.arange(items, device=device)
    most_blocks = items // BLOCK + categories
    block_M = torch.arange(most_blocks, device=device)
    category_M = torch.searchsorted(end_K, block_M, right=True).clamp_(max=categories - 1)
    return slot_N, category_M
