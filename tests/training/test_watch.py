"""The loss that a run ends with: a mean over examples, the same after a resume."""

import numpy as np
import pytest
import torch

from dat_rec.dist.process_group import process_group
from dat_rec.training.objective import TERMS
from dat_rec.training.watch import LossWatch

BATCH, LAST = 100, 7
STEPS = 23


def examples(step: int) -> int:
    return LAST if step == STEPS else BATCH


def looked(watch: LossWatch, terms_ST: torch.Tensor, begin: int, end: int) -> None:
    """Add steps ``begin`` + 1 to ``end``, and look at every fourth, and the last."""
    for step in range(begin + 1, end + 1):
        watch.add(terms_ST[step - 1])
        if step % 4 == 0 or step == end:
            watch.look(step, str, str)


@pytest.mark.parametrize(("window", "first"), [(10, 10), (5, 15), (23, 0), (100, 0), (1, 21)])
def test_the_mean_is_over_the_examples_of_the_last_steps_and_not_of_the_last_partial_batch(
    window: int, first: int
) -> None:
    terms_ST = torch.rand(STEPS, len(TERMS), generator=torch.Generator().manual_seed(3))
    weights = [examples(step) for step in range(first + 1, STEPS + 1)]
    expected = np.average(terms_ST[first:].double().numpy(), axis=0, weights=weights)
    with process_group(60):
        whole = LossWatch(examples, window)
        looked(whole, terms_ST, 0, STEPS)
        before, after = LossWatch(examples, window), LossWatch(examples, window)
        looked(before, terms_ST, 0, 13)
        after.load_state(before.state())
        looked(after, terms_ST, 13, STEPS)
    mean, steps = whole.mean()
    assert steps == STEPS - first
    assert list(mean) == list(TERMS)
    np.testing.assert_allclose(list(mean.values()), expected, rtol=1e-6)
    assert after.mean() == (mean, steps)


def test_of_no_step_there_is_no_mean() -> None:
    assert LossWatch().mean() == ({}, 0)
