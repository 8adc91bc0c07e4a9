"""Bayesian personalised ranking: the positive should score above each negative."""

from torch import Tensor

from dat_rec.data.stream.batch import Items
from dat_rec.model.losses.pairwise import mean_cost_of_products, softplus


def bayesian_personalised_ranking(
    query_BD: Tensor,
    positive_BD: Tensor,
    candidate_ND: Tensor,
    positive: Items,
    candidate: Items,
    num_queries: float | Tensor,
    temperature: float | Tensor,
    weight_B: Tensor | None = None,
) -> Tensor:
    """−1/T Σ_i ω_i/|N_i| Σ_{j ∈ N_i} log σ((s_i − s_ij) / τ), scores s being inner products.

    Rendle et al. (UAI 2009), BPR-Opt, over the candidates of the global batch: N_i are those of
    other items than the own positive (no accidental hits). At equal scores the loss is ln 2.
    Gradients flow into all three kinds of vectors; candidates are not corrected for how they were
    sampled.

    Args:
        query_BD: (B, D) unit vectors.
        positive_BD: (B, D) unit vectors, each query's positive.
        candidate_ND: (N, D) unit vectors, of the global batch.
        positive: B items.
        candidate: N items.
        num_queries: T, the number of queries that the mean is over, or the sum of their weights.
        temperature: τ; gradients flow into a scalar tensor.
        weight_B: (B,) ω, of the vectors' dtype; None: all are 1.

    Returns:
        Scalar, Σ over the B queries divided by ``num_queries``.
    """
    query_BD = query_BD / temperature
    own_B = (query_BD * positive_BD).sum(dim=1)
    loss = mean_cost_of_products(
        query_BD, candidate_ND, -own_B, positive.index, candidate.index, softplus, weight_B
    )
    return loss / num_queries
