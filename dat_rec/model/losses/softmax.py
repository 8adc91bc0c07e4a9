"""Softmax over sampled candidates, corrected for how they came, without accidental hits."""

from torch import Tensor

from dat_rec.data.stream.batch import Items
from dat_rec.model.losses.blockwise import cross_entropy_of_products


def sampled_softmax(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    positive: Items,
    candidate: Items,
    num_queries: float | Tensor,
    temperature: float | Tensor,
    candidate_offset: float = 0.0,
    weight_B: Tensor | None = None,
    *,
    fused: bool = False,
) -> Tensor:
    """Softmax over sampled candidates, corrected for how they were sampled.

    −1/T Σ_i ω_i log softmax_j(⟨p_i, p_j⟩ / τ + β·log P_j − w·log Q_j)[own positive], over the own
    positive and all candidates of other items, after Yi et al. (RecSys 2019), equation (4), where
    β is 0, and w and all ω are 1. What stands behind the inner product comes with the items (their
    offsets). A candidate that is the own positive's item is no negative: it is left out
    ("accidental hit"), and so the own positive may stand among the candidates too. At equal scores
    and equal offsets the loss is ln of the number of scored candidates. Gradients flow into all
    three kinds of vectors, and not into the offsets.

    With the offset β·log P alone of own positives, and ``candidate_offset`` −w·log n, n being the
    number of candidates, a candidate stands for 1 / (n·Q_j) of its item, and the own positive for
    itself: it is there without being drawn. So, w being 1, the sum is the full softmax's in
    expectation, and with many candidates the gradient is that of the softmax over the whole
    catalogue (Khrylchenko et al., RecSys 2025, arXiv:2507.09331, whose weight 1 − P(positive) is
    the same gradient). Corrected as if they had been drawn, rare positives learn less than there,
    frequent ones more.

    Args:
        query_BD: (B, D) unit vectors.
        positive_BD: (B, D) unit vectors, each query's positive.
        candidate_ND: (N, D) unit vectors, of the global batch.
        positive: B items.
        candidate: N items.
        num_queries: T, the number of queries that the mean is over, or the sum of their weights.
        temperature: τ; gradients flow into a scalar tensor.
        candidate_offset: added to the logits of all candidates, and not to the own positives'.
        weight_B: (B,) ω, of the vectors' dtype; None: all are 1.
        fused: by Triton's kernels, which need float32 on a GPU.

    Returns:
        Scalar, Σ over the B queries divided by ``num_queries``.
    """
    offset_B, offset_N = (items.offset.to(candidate_ND.dtype) for items in (positive, candidate))
    if candidate_offset:
        offset_N = offset_N + candidate_offset
    cross_entropy = cross_entropy_of_products
    if fused:
        # Triton is where PyTorch with CUDA is.
        from dat_rec.model.losses.fused import fused_cross_entropy_of_products as cross_entropy
    loss = cross_entropy(
        query_BD / temperature,
        positive_BD,
        candidate_ND,
        offset_B,
        offset_N,
        positive.index,
        candidate.index,
        weight_B,
    )
    return loss / num_queries
