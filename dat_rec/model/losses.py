"""The losses, each alone and pure: float tensors in, one scalar out.

Equations (2) and (4) and the softmax are means; what a mean is over is an argument, since the
caller may hold a part of the examples alone, of any size, none included.

Shapes: B examples, S negatives for each, D width of the vectors, N candidates, K categories.
Equation numbers are the paper's (Yu et al., DLP-KDD 2021).
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_rec.data.batch import Items
from dat_rec.data.schema import UNKNOWN

BLOCK = 32
"""Items of one category that one small matrix product sums up."""
MOST_MOMENTS = 2**20
"""Numbers of the outer products of all compared categories, at most: what ranks exchange a step."""
FEWEST_COMPARED = 64
"""Categories that are compared however wide the vectors are."""
BITS = math.log2(math.e)
"""Of a natural unit of log-probability."""


class SoftmaxBlock(NamedTuple):
    """Of which size the softmax takes up queries and candidates."""

    logits: int
    """Of a block; on CPU, as many as stay in the cache."""
    candidates: int
    """Of a block at most: the rest of its logits are more queries."""
    held: int
    """Logits of all blocks of the same queries at most: fewer queries with very many candidates."""


SOFTMAX_BLOCK = {
    "cpu": SoftmaxBlock(2**19, 2**11, 2**26),
    "cuda": SoftmaxBlock(2**26, 2**22, 2**26),
}
"""By device."""


def binary_cross_entropy(query_BD: Tensor, item_BSD: Tensor, pairs: float) -> Tensor:
    """Equation (4): −1/T Σ [y log σ(s) + (1 − y) log(1 − σ(s))], s = ⟨p_u, p_v⟩.

    The sum is over B·(1 + S) pairs: each query with its own positive (y = 1) and negatives
    (y = 0). At orthogonal unit vectors a pair costs ln 2. Gradients flow into both vectors.

    Args:
        query_BD: (B, D) unit vectors.
        item_BSD: (B, 1 + S, D) unit vectors, the positive first.
        pairs: T, the pairs that the mean is over.

    Returns:
        Scalar, Σ over the pairs divided by ``pairs``.
    """
    scores_BS = torch.einsum("bd,bsd->bs", query_BD, item_BSD)
    labels_BS = torch.zeros_like(scores_BS)
    labels_BS[:, 0] = 1.0
    return F.binary_cross_entropy_with_logits(scores_BS, labels_BS, reduction="sum") / pairs


def mimic(augmented_BD: Tensor, partner_BD: Tensor, pairs: float) -> Tensor:
    """Equation (2): 1/T Σ [y·a + (1 − y)·p − p]², for one side.

    A negative pair costs p − p = 0, so only the B positives are passed. The square of a
    vector is its squared length (a sum over D; the paper does not say). No gradient flows
    into p: the augmented vector follows the other tower, not the reverse.

    Args:
        augmented_BD: a_u (or a_v) of the positive pairs, not normalised.
        partner_BD: p_v (or p_u) of the same pairs, unit vectors; detached here.
        pairs: T, the pairs that the mean is over: the positives, or the paper's 1 + S times
            as many.

    Returns:
        Scalar, Σ over the positives divided by ``pairs``.
    """
    return (augmented_BD - partner_BD.detach()).square().sum() / pairs


def most_compared(width: int) -> int:
    """Most categories that equation (3) compares: 1024 for vectors of 32 numbers, 64 from 128 on.

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
    sum_KD: Tensor
    outer_KDD: Tensor
    """Σ p pᵀ."""


def category_moments(item_ND: Tensor, category_N: Tensor, categories: int) -> CategoryMoments:
    """Count, sum and sum of outer products of the items of each category.

    Sorted by category and cut into blocks of one category each, the outer products are a
    batch of small matrix products: (N, D, D) numbers are never made.

    Args:
        item_ND: p_v, float.
        category_N: int64, category of each item, in [0, categories).
        categories: K, the unknown category 0 included.
    """
    count_K = torch.bincount(category_N, minlength=categories)
    sums: tuple[Tensor, Tensor] = _SumsByCategory.apply(  # type: ignore[no-untyped-call]
        item_ND, category_N, count_K
    )
    return CategoryMoments(count_K.to(item_ND.dtype), *sums)


class _SumsByCategory(torch.autograd.Function):
    """Σ p and Σ p pᵀ of each category, with the gradient written out: one product, not two."""

    @staticmethod
    def forward(
        ctx: Any, item_ND: Tensor, category_N: Tensor, count_K: Tensor
    ) -> tuple[Tensor, Tensor]:
        (items, width), categories = item_ND.shape, len(count_K)
        blocks_K = (count_K + BLOCK - 1) // BLOCK
        blocks = items // BLOCK + categories  # at least blocks_K.sum(), and known without it
        end_K = blocks_K.cumsum(0)
        sorted_N, order_N = category_N.sort(stable=True)
        first_K = (end_K - blocks_K) * BLOCK - count_K.cumsum(0) + count_K
        slot_N = first_K[sorted_N] + torch.arange(items, device=item_ND.device)
        block_MRD = (
            item_ND.new_zeros(blocks * BLOCK, width)
            .index_copy_(0, slot_N, item_ND.index_select(0, order_N))
            .view(blocks, BLOCK, width)
        )
        # Blocks behind the last category are zero; whose they are called makes no difference.
        block = torch.arange(blocks, device=item_ND.device)
        category_M = torch.searchsorted(end_K, block, right=True).clamp_(max=categories - 1)
        outer_ME = torch.bmm(block_MRD.transpose(1, 2), block_MRD).flatten(1)
        zeros = item_ND.new_zeros
        sum_KD = zeros(categories, width).index_add_(0, category_M, block_MRD.sum(dim=1))
        outer_KE = zeros(categories, width * width).index_add_(0, category_M, outer_ME)
        ctx.save_for_backward(block_MRD, category_M, order_N, slot_N)
        return sum_KD, outer_KE.view(categories, width, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_KD: Tensor, gradient_KDD: Tensor) -> tuple[Tensor, None, None]:
        block_MRD, category_M, order_N, slot_N = ctx.saved_tensors
        both_KDD = gradient_KDD + gradient_KDD.transpose(1, 2)
        gradient_MRD = torch.baddbmm(
            gradient_KD.index_select(0, category_M).unsqueeze(1),
            block_MRD,
            both_KDD.index_select(0, category_M),
        )
        sorted_ND = gradient_MRD.flatten(0, 1).index_select(0, slot_N)
        return torch.empty_like(sorted_ND).index_copy_(0, order_N, sorted_ND), None, None


def category_alignment(moments: CategoryMoments) -> Tensor:
    """Equation (3): Σ_{i≥2} ‖C(S_major) − C(S_i)‖²_F over the categories of the batch.

    C is the covariance with the n − 1 normaliser (Deep CORAL's; the paper does not say);
    S_major is the category with most items, the first of equals. A category with fewer
    than two items has no covariance and adds nothing, and neither does the unknown one.
    Gradients flow into both covariances.

    Returns:
        Scalar: a sum over categories, of squared Frobenius norms.
    """
    loss: Tensor = _DistanceOfCovariances.apply(*moments)  # type: ignore[no-untyped-call]
    return loss


class _DistanceOfCovariances(torch.autograd.Function):
    """Equation (3) of moments, in the memory of one more outer product for each category.

    What autograd would keep of each operation is done in place, with the same bits.
    """

    @staticmethod
    def forward(ctx: Any, count_K: Tensor, sum_KD: Tensor, outer_KDD: Tensor) -> Tensor:
        known_K = torch.arange(len(count_K), device=count_K.device) != UNKNOWN
        usable_K = (count_K >= 2) & known_K
        n_K = count_K.clamp(min=2)
        mean_KD = sum_KD / n_K[:, None]
        covariance_KDD = mean_KD.unsqueeze(2) * mean_KD.unsqueeze(1)
        torch.sub(outer_KDD, covariance_KDD.mul_(n_K[:, None, None]), out=covariance_KDD)
        covariance_KDD.div_((n_K - 1)[:, None, None])
        major = torch.where(usable_K, count_K, 0).argmax()
        difference_KDD = covariance_KDD.sub_(covariance_KDD[major].clone()).neg_()
        distance_K = difference_KDD.square().sum(dim=(1, 2))
        ctx.save_for_backward(difference_KDD, mean_KD, n_K, usable_K, major)
        return torch.where(usable_K, distance_K, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        difference_KDD, mean_KD, n_K, usable_K, major = ctx.saved_tensors
        twice_K = 2 * torch.where(usable_K, gradient, 0)
        gradient_KDD = difference_KDD * twice_K[:, None, None]
        of_major_DD = gradient_KDD.sum(dim=0)
        gradient_KDD.neg_()[major] += of_major_DD
        gradient_KDD.div_((n_K - 1)[:, None, None])
        of_means_KDD = gradient_KDD * -n_K[:, None, None]
        of_mean_KD = (of_means_KDD * mean_KD.unsqueeze(1)).sum(dim=2)
        of_mean_KD += of_means_KDD.mul_(mean_KD.unsqueeze(2)).sum(dim=1)
        return None, of_mean_KD / n_K[:, None], gradient_KDD


def sampled_softmax(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    positive: Items,
    candidate: Items,
    queries: float,
    temperature: float,
    log_q_strength: float = 1.0,
) -> Tensor:
    """Softmax over sampled candidates, corrected for how they were sampled.

    −1/T Σ_i log softmax_j(⟨p_i, p_j⟩ / τ − w·log Q_j)[own positive], over the own positive and
    all candidates of other items, after Yi et al. (RecSys 2019), equation (4); w is 1 there. A
    candidate that is the own positive's item is no negative: it is left out ("accidental hit"),
    and so the own positive may stand among the candidates too. At equal scores and equal Q it
    costs ln of the number of what is scored.

    Args:
        query_BD: (B, D) unit vectors.
        positive_BD: (B, D) unit vectors, each query's positive.
        candidate_ND: (N, D) unit vectors, of the global batch.
        positive: B items.
        candidate: N items.
        queries: T, the queries that the mean is over.
        temperature: τ.
        log_q_strength: w.

    Returns:
        Scalar, Σ over the B queries divided by ``queries``.
    """
    offset_B, offset_N = (
        (-log_q_strength * items.log_q).to(candidate_ND.dtype) for items in (positive, candidate)
    )
    loss: Tensor = _CrossEntropyOfProducts.apply(  # type: ignore[no-untyped-call]
        query_BD / temperature,
        positive_BD,
        candidate_ND,
        offset_B,
        offset_N,
        positive.index,
        candidate.index,
    )
    return loss / queries


class _CrossEntropyOfProducts(torch.autograd.Function):
    """Sum of −log softmax over own positive and candidates, with its gradients beside it.

    Some queries at a time, and for them a block of candidates after the other, from logits to what
    their weights add to the query's gradient while they are in the cache. Totals and queries'
    gradients are relative to the largest logit so far, and scaled down when a larger one comes
    (Milakov and Gimelshein, arXiv:1805.02867); the candidates' gradients wait until the largest is
    known. Until then the weights of these queries are held, of the accidental hits the places
    alone, and the exponential is taken once. Logits are in bits, for a power of two costs a third
    of one of e (benchmarks/LOG.md).
    """

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
    ) -> Tensor:
        queries, candidates = len(query_BD), len(candidate_ND)
        gradient_BD, gradient_ND = torch.zeros_like(query_BD), torch.zeros_like(candidate_ND)
        share_B = torch.empty_like(offset_B)
        bits_BD, bits_N = query_BD * BITS, offset_N * BITS
        own_B = (bits_BD * positive_BD).sum(dim=1) + offset_B * BITS
        loss = query_BD.new_zeros(())
        room, columns = _blocks_in_cache(query_BD, candidates)
        rows = room.shape[1]
        chunks = list(pairwise([*range(0, queries, rows), queries]))
        blocks = list(pairwise([*range(0, candidates, columns), candidates]))
        hits = _hits(item_B, item_N, columns, room)
        for begin, end in chunks:
            query_CD, own_C = query_BD[begin:end], own_B[begin:end]
            gradient_CD = gradient_BD[begin:end]
            top_C, total_C = own_C, torch.ones_like(own_C)
            done = []
            for (first, last), block in zip(blocks, room, strict=True):
                candidate_MD = candidate_ND[first:last]
                weight_CM = block[: end - begin, : last - first]
                torch.addmm(bits_N[first:last], bits_BD[begin:end], candidate_MD.T, out=weight_CM)
                block.view(-1).index_fill_(0, next(hits), float("-inf"))
                before_C, top_C = top_C, torch.maximum(top_C, weight_CM.amax(dim=1))
                shrink_C = (before_C - top_C).exp2_()
                weight_CM.sub_(top_C[:, None]).exp2_()
                total_C.mul_(shrink_C).add_(weight_CM.sum(dim=1))
                gradient_CD.mul_(shrink_C[:, None]).addmm_(weight_CM, candidate_MD)
                done.append((gradient_ND[first:last], weight_CM, top_C))
            loss += (top_C + total_C.log2() - own_C).sum()
            # ∂/∂logit = share of the total, of the own positive less 1.
            torch.div((own_C - top_C).exp2_(), total_C, out=share_B[begin:end])
            gradient_CD.div_(total_C[:, None])
            # The last blocks are in the cache still.
            for gradient_MD, weight_CM, its_top_C in reversed(done):
                scale_C = (its_top_C - top_C).exp2_().div_(total_C)
                gradient_MD.addmm_(weight_CM.T, query_CD * scale_C[:, None])
        error_B1 = (share_B - 1)[:, None]
        gradient_BD.addcmul_(error_B1, positive_BD)
        ctx.save_for_backward(gradient_BD, error_B1 * query_BD, gradient_ND)
        return loss / BITS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * gradient for saved in ctx.saved_tensors), None, None, None, None


def _blocks_in_cache(query_BD: Tensor, candidates: int) -> tuple[Tensor, int]:
    """Room for the logits of some queries, by block of candidates, and the candidates of a block.

    A row is an odd number of cache lines long, since rows a power of two apart share the cache's
    sets, and push one another out.
    """
    block = SOFTMAX_BLOCK.get(query_BD.device.type, SOFTMAX_BLOCK["cuda"])
    blocks = -(-candidates // block.candidates)
    columns = -(-candidates // max(1, blocks))
    size = query_BD.element_size()
    stride = ((columns * size + 63) // 64 | 1) * 64 // size
    rows = min(block.logits // stride, block.held // max(1, blocks * stride), len(query_BD))
    return query_BD.new_empty(blocks, max(1, rows), stride), max(1, columns)


def _hits(item_B: Tensor, item_N: Tensor, columns: int, room: Tensor) -> Iterator[Tensor]:
    """Where queries' own items stand in a block of ``room``: chunk by chunk of queries, its blocks.

    Not before a block is asked for are its hits listed: where many candidates are one item, those
    of all queries would take many times the memory of all blocks' logits.

    Args:
        item_B: of the queries.
        item_N: of the candidates.
        columns: candidates of a block.
        room: of ``_blocks_in_cache``.

    Yields:
        (H,) int64: places in the block.
    """
    blocks, rows, stride = room.shape
    # No item is -1.
    item_MC = F.pad(item_N, (0, blocks * columns - len(item_N)), value=-1).view(blocks, columns)
    sorted_MC, order_MC = item_MC.sort(dim=1)
    item_MB = item_B.expand(blocks, -1).contiguous()
    first_MB = torch.searchsorted(sorted_MC, item_MB)
    count_MB = torch.searchsorted(sorted_MC, item_MB, right=True).sub_(first_MB)
    chunks = [each.split(rows, dim=1) for each in (first_MB, count_MB)]
    totals = torch.stack([count_MR.sum(dim=1) for count_MR in chunks[1]]).tolist()
    begin_R = torch.arange(rows, device=item_B.device) * stride
    for first_MR, count_MR, totals_M in zip(*chunks, totals, strict=True):
        for first_R, count_R, order_C, total in zip(
            first_MR, count_MR, order_MC, totals_M, strict=True
        ):
            shift_R = first_R - count_R.cumsum(0) + count_R
            shift_H, begin_H = (
                torch.repeat_interleave(each_R, count_R, output_size=total)
                for each_R in (shift_R, begin_R[: len(count_R)])
            )
            at_H = torch.arange(total, device=item_B.device)
            yield begin_H.add_(order_C[shift_H.add_(at_H)])
