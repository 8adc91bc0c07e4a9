"""The losses, each alone and pure: float tensors in, one scalar out.

Equations (2) and (4) and the softmax are means; what a mean is over is an argument, since the
caller may hold a part of the examples alone, of any size, none included.

Shapes: B examples, S negatives for each, D width of the vectors, N candidates, K categories.
Equation numbers are the paper's (Yu et al., DLP-KDD 2021).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dat_rec.data.schema import UNKNOWN
from dat_rec.model.towers import inner_products

BLOCK = 32
"""Items of one category that one small matrix product sums up."""
CHUNK = {"cpu": 2**19, "cuda": 2**26}
"""Logits that the softmax holds at once, by device: on CPU, those that stay in the cache."""


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
    items, width = item_ND.shape
    count_K = torch.bincount(category_N, minlength=categories)
    blocks_K = (count_K + BLOCK - 1) // BLOCK
    blocks = items // BLOCK + categories  # at least blocks_K.sum(), and known without it
    end_K = blocks_K.cumsum(0)
    order_N = category_N.argsort(stable=True)
    sorted_N = category_N[order_N]
    place_N = torch.arange(items, device=item_ND.device) - (count_K.cumsum(0) - count_K)[sorted_N]
    slot_N = (end_K - blocks_K)[sorted_N] * BLOCK + place_N
    block_MRD = (
        item_ND.new_zeros(blocks * BLOCK, width)
        .index_copy(0, slot_N, item_ND[order_N])
        .view(blocks, BLOCK, width)
    )
    # Blocks behind the last category are zero; whose they are called makes no difference.
    block = torch.arange(blocks, device=item_ND.device)
    category_M = torch.searchsorted(end_K, block, right=True).clamp(max=categories - 1)
    outer_ME = torch.bmm(block_MRD.transpose(1, 2), block_MRD).flatten(1)
    zero = item_ND.new_zeros
    return CategoryMoments(
        count_K=count_K.to(item_ND.dtype),
        sum_KD=zero(categories, width).index_add(0, category_M, block_MRD.sum(dim=1)),
        outer_KDD=zero(categories, width * width)
        .index_add(0, category_M, outer_ME)
        .view(categories, width, width),
    )


def category_alignment(moments: CategoryMoments) -> Tensor:
    """Equation (3): Σ_{i≥2} ‖C(S_major) − C(S_i)‖²_F over the categories of the batch.

    C is the covariance with the n − 1 normaliser (Deep CORAL's; the paper does not say);
    S_major is the category with most items, the first of equals. A category with fewer
    than two items has no covariance and adds nothing, and neither does the unknown one.
    Gradients flow into both covariances.

    Returns:
        Scalar: a sum over categories, of squared Frobenius norms.
    """
    known = torch.arange(len(moments.count_K), device=moments.count_K.device) != UNKNOWN
    usable_K = (moments.count_K >= 2) & known
    n_K = moments.count_K.clamp(min=2)
    mean_KD = moments.sum_KD / n_K[:, None]
    scatter_KDD = moments.outer_KDD - n_K[:, None, None] * (
        mean_KD.unsqueeze(2) * mean_KD.unsqueeze(1)
    )
    covariance_KDD = scatter_KDD / (n_K - 1)[:, None, None]
    major = torch.where(usable_K, moments.count_K, 0).argmax()
    distance_K = (covariance_KDD[major] - covariance_KDD).square().sum(dim=(1, 2))
    return torch.where(usable_K, distance_K, 0).sum()


def sampled_softmax(
    query_BD: Tensor,
    candidate_ND: Tensor,
    own_B: Tensor,
    candidate_item_N: Tensor,
    log_q_N: Tensor,
    queries: float,
    temperature: float,
    log_q_strength: float = 1.0,
) -> Tensor:
    """Softmax over sampled candidates, corrected for how they were sampled.

    −1/T Σ_i log softmax_j(⟨p_i, p_j⟩ / τ − w·log Q_j)[own_i], after Yi et al. (RecSys 2019),
    equation (4); w is 1 there. A candidate that is the same item as the own positive, in
    another place, is no negative: it is masked ("accidental hit"). At equal scores and
    equal Q it costs ln N.

    Args:
        query_BD: (B, D) unit vectors.
        candidate_ND: (N, D) unit vectors, all positives and negatives of the global batch.
        own_B: int64, row of each query's positive among the candidates.
        candidate_item_N: int64, catalogue row of each candidate.
        log_q_N: log of each candidate's expected share of the candidates.
        queries: T, the queries that the mean is over.
        temperature: τ.
        log_q_strength: w.

    Returns:
        Scalar, Σ over the B queries divided by ``queries``.
    """
    loss: Tensor = _CrossEntropyOfProducts.apply(  # type: ignore[no-untyped-call]
        query_BD / temperature,
        candidate_ND,
        (-log_q_strength * log_q_N).to(candidate_ND.dtype),
        own_B,
        candidate_item_N,
    )
    return loss / queries


class _CrossEntropyOfProducts(torch.autograd.Function):
    """Sum of −log softmax_j(⟨q_i, c_j⟩ + o_j)[own_i], masked, with its gradient beside it.

    A few queries at a time, from logits to gradients while they are in the cache: (B, N)
    numbers are never held, and the exponential is taken once (benchmarks/LOG.md).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: Tensor,
        candidate_ND: Tensor,
        offset_N: Tensor,
        own_B: Tensor,
        item_N: Tensor,
    ) -> Tensor:
        gradient_BD = torch.empty_like(query_BD)
        gradient_ND = torch.zeros_like(candidate_ND)
        losses = []
        rows = max(1, CHUNK.get(query_BD.device.type, CHUNK["cuda"]) // len(candidate_ND))
        for query_CD, own_C, gradient_CD in zip(
            query_BD.split(rows), own_B.split(rows), gradient_BD.split(rows), strict=True
        ):
            number_C = torch.arange(len(own_C), device=own_C.device)
            logits_CN = inner_products(query_CD, candidate_ND).add_(offset_N)
            hits_CN = item_N[own_C][:, None] == item_N
            hits_CN[number_C, own_C] = False
            logits_CN.masked_fill_(hits_CN, float("-inf"))
            own_logit_C = logits_CN[number_C, own_C]
            top_C1 = logits_CN.amax(dim=1, keepdim=True)
            weight_CN = logits_CN.sub_(top_C1).exp_()
            total_C1 = weight_CN.sum(dim=1, keepdim=True)
            losses.append(top_C1.squeeze(1) + total_C1.log().squeeze(1) - own_logit_C)
            # ∂/∂logits = p − one-hot, p = weight / total.
            torch.mm(weight_CN, candidate_ND, out=gradient_CD)
            gradient_CD.div_(total_C1).sub_(candidate_ND[own_C])
            gradient_ND.addmm_(weight_CN.T, query_CD / total_C1)
        gradient_ND.index_add_(0, own_B, query_BD, alpha=-1)
        ctx.save_for_backward(gradient_BD, gradient_ND)
        return torch.cat(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        gradient_BD, gradient_ND = ctx.saved_tensors
        return gradient_BD * gradient, gradient_ND * gradient, None, None, None
