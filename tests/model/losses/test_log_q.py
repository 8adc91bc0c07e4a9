"""The softmax over sampled candidates against the one over the whole catalogue, by its gradient.

Items are unit vectors along the axes, so that a query's numbers are its scores, and the gradient
of the query is that of the scores. Popularity, the negatives' distribution and what the users take
are three different ones.
"""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.data.stream.negatives import NegativeSampler, log_candidate_share
from dat_rec.model.losses import sampled_softmax
from tests.model.losses.vectors import known

Array = NDArray[np.float64]
TAKEN = np.array([30, 8, 2, 6, 3, 1])
"""How often each item is the positive of the query, of 50 times."""
COUNTS = np.array([1, 60, 5, 200, 30, 4])
SCORES = np.array([1.5, 0.2, -0.5, 0.7, 0.0, -1.0])
EVERY = np.arange(len(COUNTS))
MIXTURES = {
    "the batch": (1, 0, 0.0),
    "uniform negatives": (0, 1, 0.0),
    "popular negatives": (0, 1, 1.0),
    "the batch and uniform ones": (1, 1, 0.0),
    "the batch and three times as many, ∝ √count": (1, 3, 0.5),
}
"""Parts of positives and of negatives among the candidates, and the negatives' power."""


def drawn(mixture: str, draws: int, seed: int) -> tuple[Array, Array]:
    """Candidates, and which of them were drawn as negatives."""
    batch, negatives, power = MIXTURES[mixture]
    rng = np.random.default_rng(seed)
    of_batch = draws * batch // (batch + negatives)
    positives = rng.choice(EVERY, of_batch, p=COUNTS / COUNTS.sum())
    sampled = NegativeSampler(COUNTS, power).draw(rng.random(draws - of_batch))
    return np.concatenate([positives, sampled]), np.arange(draws) >= of_batch


def gradient(candidates: Array, log_q_N: Array, log_q_B: Array, less: float) -> Array:
    """∂ loss / ∂ score of each item, mean over the 50 positives."""
    positives = np.repeat(EVERY, TAKEN)
    eye = torch.eye(len(COUNTS), dtype=torch.float64)
    query = torch.tensor(SCORES).repeat(len(positives), 1).requires_grad_()
    own, others = torch.tensor(positives), torch.tensor(candidates)
    items = known(own, torch.tensor(-log_q_B[positives])), known(others, torch.tensor(-log_q_N))
    loss = sampled_softmax(query, eye[own], eye[others], *items, len(positives), 1.0, -less)
    (found,) = torch.autograd.grad(loss, query)
    result: Array = found.sum(dim=0).numpy()
    return result


def of_the_full_softmax() -> Array:
    scores = torch.tensor(SCORES, requires_grad=True)
    costs: Tensor = -torch.log_softmax(scores, dim=0)
    (found,) = torch.autograd.grad((costs * torch.tensor(TAKEN / TAKEN.sum())).sum(), scores)
    result: Array = found.numpy()
    return result


def shares(mixture: str) -> Array:
    batch, negatives, power = MIXTURES[mixture]
    sampler = NegativeSampler(COUNTS, power)
    return log_candidate_share(COUNTS, sampler, batch, negatives).astype(np.float64)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_own_positive_for_itself_gives_the_gradient_of_the_full_softmax(mixture: str) -> None:
    log_q = shares(mixture)
    candidates, _ = drawn(mixture, 100_000, seed=1)
    found = gradient(candidates, log_q[candidates], 0 * log_q, math.log(len(candidates)))
    np.testing.assert_allclose(found, of_the_full_softmax(), atol=0.02)


def test_a_correction_of_the_own_positive_gives_another_gradient() -> None:
    """Which is why there is a choice: of the two, this is the one that Yi et al. define."""
    log_q = shares("the batch and uniform ones")
    candidates, _ = drawn("the batch and uniform ones", 100_000, seed=1)
    found = gradient(candidates, log_q[candidates], log_q, 0.0)
    assert np.abs(found - of_the_full_softmax()).max() > 0.2


def test_shares_of_the_whole_mixture_are_less_noisy_than_those_of_each_part() -> None:
    """Both are right in expectation."""
    mixture = "the batch and uniform ones"
    log_q, draws = shares(mixture), 60
    of_part = np.stack([np.log(COUNTS / COUNTS.sum()), np.log(np.full(6, 1 / 6))])
    errors = {"whole": np.zeros(6), "apart": np.zeros(6)}
    times = 300
    for seed in range(times):
        candidates, negative = drawn(mixture, draws, seed)
        for name, log_q_N in (
            ("whole", log_q[candidates]),
            ("apart", of_part[negative.astype(int), candidates]),
        ):
            error = (
                gradient(candidates, log_q_N, 0 * log_q, math.log(draws)) - of_the_full_softmax()
            )
            errors[name] += error**2 / times
    assert errors["whole"].sum() < 0.7 * errors["apart"].sum()
