"""The adaptive-mimic loss, equation (2): an augmented vector learns what the other tower gives."""

from torch import Tensor


def mimic(
    augmented_BD: Tensor,
    partner_BD: Tensor,
    num_pairs: float | Tensor,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Equation (2): 1/T Σ ω [y·a + (1 − y)·p − p]², for one side.

    A negative pair costs p − p = 0, so only the B positives are passed. The square of a
    vector is its squared length (a sum over D; the paper does not say). No gradient flows
    into p: the augmented vector follows the other tower, not the reverse. At a = 0, as before the
    tables have learned, a positive costs 1.

    Args:
        augmented_BD: (B, D) a_u (or a_v) of the positive pairs, not normalised.
        partner_BD: (B, D) p_v (or p_u) of the same pairs, unit vectors; detached here.
        num_pairs: T, the number of pairs that the mean is over: the positives, or the paper's
            1 + S times as many; or the sum of their weights.
        weight_B: (B,) ω, of the vectors' dtype; None: all are 1.

    Returns:
        Scalar, Σ over the positives divided by ``num_pairs``.
    """
    square_BD = (augmented_BD - partner_BD.detach()).square()
    if weight_B is not None:
        square_BD = square_BD * weight_B[:, None]
    return square_BD.sum() / num_pairs
