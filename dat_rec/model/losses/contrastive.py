"""The cosine contrastive loss of SimpleX: negatives cost something only where they score high."""

from torch import Tensor

from dat_rec.data.stream.batch import Items
from dat_rec.model.losses.pairwise import hinge, mean_cost_of_products


def cosine_contrastive(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    positive: Items,
    candidate: Items,
    num_queries: float | Tensor,
    margin: float,
    negative_weight: float,
    weight_B: Tensor | None = None,
) -> Tensor:
    """1/T Σ_i ω_i [(1 − s_i) + w/|N_i| Σ_{j ∈ N_i} max(0, s_ij − m)], scores s being cosines.

    Mao et al. (CIKM 2021), equation (1), over the candidates of the global batch: N_i are those of
    other items than the own positive (no accidental hits), and |N_i| is their number. At orthogonal
    vectors and m ≥ 0 the loss is 1. Gradients flow into all three kinds of vectors; candidates are
    not corrected for how they were sampled.

    Args:
        query_BD: (B, D) unit vectors.
        positive_BD: (B, D) unit vectors, each query's positive.
        candidate_ND: (N, D) unit vectors, of the global batch.
        positive: B items.
        candidate: N items.
        num_queries: T, the number of queries that the mean is over, or the sum of their weights.
        margin: m.
        negative_weight: w.
        weight_B: (B,) ω, of the vectors' dtype; None: all are 1.

    Returns:
        Scalar, Σ over the B queries divided by ``num_queries``.
    """
    own_B = (query_BD * positive_BD).sum(dim=1)
    of_negatives = mean_cost_of_products(
        query_BD,
        candidate_ND,
        own_B.new_full(own_B.shape, -margin),
        positive.index,
        candidate.index,
        hinge,
        weight_B,
    )
    of_own_B = 1 - own_B if weight_B is None else (1 - own_B) * weight_B
    return (of_own_B.sum() + negative_weight * of_negatives) / num_queries
