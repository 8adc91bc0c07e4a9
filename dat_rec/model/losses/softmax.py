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
    num_queries: float,
    temperature: float | Tensor,
) -> Tensor:
    """Softmax over sampled candidates, corrected for how they were sampled.

    −1/T Σ_i log softmax_j(⟨p_i, p_j⟩ / τ + β·log P_j − w·log Q_j)[own positive], over the own
    positive and all candidates of other items, after Yi et al. (RecSys 2019), equation (4), where
    β is 0 and w is 1. What stands behind the inner product comes with the items (their offsets). A
    candidate that is the own positive's item is no negative: it is left out ("accidental hit"), and
    so the own positive may stand among the candidates too. At equal scores and equal offsets the
    loss is ln of the number of scored candidates. Gradients flow into all three kinds of vectors,
    and not into the offsets.

    Args:
        query_BD: (B, D) unit vectors.
        positive_BD: (B, D) unit vectors, each query's positive.
        candidate_ND: (N, D) unit vectors, of the global batch.
        positive: B items.
        candidate: N items.
        num_queries: T, the number of queries that the mean is over.
        temperature: τ; gradients flow into a scalar tensor.

    Returns:
        Scalar, Σ over the B queries divided by ``num_queries``.
    """
    offset_B, offset_N = (items.offset.to(candidate_ND.dtype) for items in (positive, candidate))
    loss = cross_entropy_of_products(
        query_BD / temperature,
        positive_BD,
        candidate_ND,
        offset_B,
        offset_N,
        positive.index,
        candidate.index,
    )
    return loss / num_queries
