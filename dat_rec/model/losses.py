"""The losses, each alone and pure: float tensors in, one scalar out.

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


def binary_cross_entropy(query_BD: Tensor, item_BSD: Tensor) -> Tensor:
    """Equation (4): −1/T Σ [y log σ(s) + (1 − y) log(1 − σ(s))], s = ⟨p_u, p_v⟩.

    T = B·(1 + S) pairs: each query with its own positive (y = 1) and negatives (y = 0).
    At random unit vectors it costs ln 2. Gradients flow into both arguments.

    Args:
        query_BD: (B, D) unit vectors.
        item_BSD: (B, 1 + S, D) unit vectors, the positive first.

    Returns:
        Scalar, mean over the T pairs.
    """
    scores_BS = torch.einsum("bd,bsd->bs", query_BD, item_BSD)
    labels_BS = torch.zeros_like(scores_BS)
    labels_BS[:, 0] = 1.0
    return F.binary_cross_entropy_with_logits(scores_BS, labels_BS)


def mimic(augmented_BD: Tensor, partner_BD: Tensor, pairs: int) -> Tensor:
    """Equation (2): 1/T Σ [y·a + (1 − y)·p − p]², for one side.

    A negative pair costs p − p = 0, so only the B positives are passed. The square of a
    vector is its squared length (a sum over D; the paper does not say). No gradient flows
    into p: the augmented vector follows the other tower, not the reverse.

    Args:
        augmented_BD: a_u (or a_v) of the positive pairs, not normalised.
        partner_BD: p_v (or p_u) of the same pairs, unit vectors; detached here.
        pairs: T, the pairs that the mean is over: B, or the paper's B·(1 + S).

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

    Args:
        item_ND: p_v, float.
        category_N: int64, category of each item, in [0, categories).
        categories: K, the unknown category 0 included.
    """
    width = item_ND.shape[1]
    outer_NE = (item_ND.unsqueeze(2) * item_ND.unsqueeze(1)).flatten(1)
    zero = item_ND.new_zeros
    return CategoryMoments(
        count_K=zero(categories).index_add(0, category_N, item_ND.new_ones(len(category_N))),
        sum_KD=zero(categories, width).index_add(0, category_N, item_ND),
        outer_KDD=zero(categories, width * width)
        .index_add(0, category_N, outer_NE)
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
    temperature: float,
    log_q_strength: float = 1.0,
) -> Tensor:
    """Softmax over sampled candidates, corrected for how they were sampled.

    −1/B Σ_i log softmax_j(⟨p_i, p_j⟩ / τ − w·log Q_j)[own_i], after Yi et al. (RecSys 2019),
    equation (4); w is 1 there. A candidate that is the same item as the own positive, in
    another place, is no negative: it is masked ("accidental hit"). At equal scores and
    equal Q it costs ln N.

    Args:
        query_BD: (B, D) unit vectors.
        candidate_ND: (N, D) unit vectors, all positives and negatives of the global batch.
        own_B: int64, row of each query's positive among the candidates.
        candidate_item_N: int64, catalogue row of each candidate.
        log_q_N: log of each candidate's expected share of the candidates.
        temperature: τ.
        log_q_strength: w.

    Returns:
        Scalar, mean over the B queries.
    """
    hits_BN = candidate_item_N[own_B][:, None] == candidate_item_N
    hits_BN[torch.arange(len(own_B), device=own_B.device), own_B] = False
    # One more dimension, 1 on one side and −w·log Q on the other, brings the correction
    # into the product itself.
    one_B1 = query_BD.new_ones(len(query_BD), 1)
    offset_N1 = (-log_q_strength * log_q_N).to(query_BD.dtype).unsqueeze(1)
    loss: Tensor = _CrossEntropyOfProducts.apply(  # type: ignore[no-untyped-call]
        torch.cat([query_BD / temperature, one_B1], dim=1),
        torch.cat([candidate_ND, offset_N1], dim=1),
        own_B,
        hits_BN,
    )
    return loss


class _CrossEntropyOfProducts(torch.autograd.Function):
    """Mean of −log softmax_j(⟨q_i, c_j⟩)[own_i], masked, with its gradient written out.

    The plain composition passes over (B, N) numbers some fifteen times and is bound by
    memory; this one does so six times (benchmarks/LOG.md has the figures).
    """

    @staticmethod
    def forward(
        ctx: Any, query_BE: Tensor, candidate_NE: Tensor, own_B: Tensor, masked_BN: Tensor
    ) -> Tensor:
        logits_BN = inner_products(query_BE, candidate_NE).masked_fill_(masked_BN, float("-inf"))
        log_p_BN = torch.log_softmax(logits_BN, dim=1)
        ctx.save_for_backward(query_BE, candidate_NE, own_B, logits_BN)
        return -log_p_BN.gather(1, own_B[:, None]).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query_BE, candidate_NE, own_B, logits_BN = ctx.saved_tensors
        # ∂/∂logits = (p − one-hot) / B; softmax is one pass, exp of the logarithm took three.
        p_BN = torch.softmax(logits_BN, dim=1)
        p_BN[torch.arange(len(own_B), device=own_B.device), own_B] -= 1
        scale = gradient / len(own_B)
        return p_BN @ candidate_NE * scale, p_BN.T @ query_BE * scale, None, None
