"""Softmax over sampled candidates, with logQ correction and without accidental hits."""

from torch import Tensor

from dat_rec.data.stream.batch import Items
from dat_rec.model.losses.blockwise import cross_entropy_of_products
from dat_rec.model.losses.log_q import log_q_correction


def sampled_softmax(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    positive: Items,
    candidate: Items,
    num_queries: float,
    temperature: float | Tensor,
    log_q_strength: float = 1.0,
) -> Tensor:
    """Softmax over sampled candidates, corrected for how they were sampled.

    −1/T Σ_i log softmax_j(⟨p_i, p_j⟩ / τ − w·log Q_j)[own positive], over the own positive and
    all candidates of other items, after Yi et al. (RecSys 2019), equation (4); w is 1 there. A
    candidate that is the own positive's item is no negative: it is left out ("accidental hit"),
    and so the own positive may stand among the candidates too. At equal scores and equal Q the
    loss is ln of the number of scored candidates. Gradients flow into all three kinds of vectors,
    and not into log Q.

    Args:
        query_BD: (B, D) unit vectors.
        positive_BD: (B, D) unit vectors, each query's positive.
        candidate_ND: (N, D) unit vectors, of the global batch.
        positive: B items.
        candidate: N items.
        num_queries: T, the number of queries that the mean is over.
        temperature: τ; gradients flow into a scalar tensor.
        log_q_strength: w.

    Returns:
        Scalar, Σ over the B queries divided by ``num_queries``.
    """
    offset_B, offset_N = (
        log_q_correction(items.log_q, log_q_strength).to(candidate_ND.dtype)
        for items in (positive, candidate)
    )
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
