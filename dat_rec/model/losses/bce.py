"""Binary cross entropy over positive and negative pairs: the paper's main loss, equation (4)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(
    query_BD: Tensor,
    item_BSD: Tensor,
    num_pairs: float | Tensor,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Equation (4): −1/T Σ ω [y log σ(s) + (1 − y) log(1 − σ(s))], s = ⟨p_u, p_v⟩.

    The sum is over B·(1 + S) pairs: each query with its own positive (y = 1) and negatives
    (y = 0). At orthogonal unit vectors a pair costs ln 2. Gradients flow into both vectors.

    Args:
        query_BD: (B, D) unit vectors.
        item_BSD: (B, 1 + S, D) unit vectors, the positive first.
        num_pairs: T, the number of pairs that the mean is over, or the sum of their weights.
        weight_B: (B,) ω of all pairs of a query, of the vectors' dtype; None: all are 1.

    Returns:
        Scalar, Σ over the pairs divided by ``num_pairs``.
    """
    scores_BS = torch.einsum("bd,bsd->bs", query_BD, item_BSD)
    labels_BS = torch.zeros_like(scores_BS)
    labels_BS[:, 0] = 1.0
    weight_B1 = None if weight_B is None else weight_B[:, None]
    loss = F.binary_cross_entropy_with_logits(scores_BS, labels_BS, weight_B1, reduction="sum")
    return loss / num_pairs
