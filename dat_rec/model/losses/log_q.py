"""The logQ correction: what is sampled often must not be punished for it.

In-batch negatives come as often as items are popular. Left as they are, the softmax would learn
the score minus the log of that frequency, and rank popular items too low; −log Q on every logit
takes it away again (Bengio and Senécal, 2008; Yi et al., RecSys 2019, equation (3)).
"""

from torch import Tensor


def log_q_correction(log_q_N: Tensor, strength: float) -> Tensor:
    """What is added to the logits of N sampled items: −w·log Q.

    Args:
        log_q_N: (N,) log of each item's expected share of the candidates.
        strength: w; 1 corrects as sampled, 0 not at all.

    Returns:
        (N,)
    """
    return -strength * log_q_N
