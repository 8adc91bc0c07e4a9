"""An example that weighs n costs what n equal ones do; a weight of 1 is none, to the last bit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dat_rec.model.losses import (
    bayesian_personalised_ranking,
    binary_cross_entropy,
    cosine_contrastive,
    mimic,
    sampled_softmax,
)
from tests.model.losses.vectors import B, D, S, known, unit

CANDIDATES = 11
OWN = torch.arange(B) % 5
OTHERS = known(torch.arange(CANDIDATES) % 6, unit(CANDIDATES, 1, seed=4)[:, 0])
OFFSET = unit(B, 1, seed=5)[:, 0]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor | None], Tensor]
"""Of rows, their queries, positives and the candidates, a number to divide by, and weights."""


def softmax(rows, query, item, other, total, weight):  # type: ignore[no-untyped-def]
    own = known(OWN[rows], OFFSET[rows])
    return sampled_softmax(query, item, other, own, OTHERS, total, 0.3, -0.7, weight)


def bpr(rows, query, item, other, total, weight):  # type: ignore[no-untyped-def]
    own = known(OWN[rows])
    return bayesian_personalised_ranking(query, item, other, own, OTHERS, total, 0.3, weight)


def contrastive(rows, query, item, other, total, weight):  # type: ignore[no-untyped-def]
    own = known(OWN[rows])
    return cosine_contrastive(query, item, other, own, OTHERS, total, 0.1, 3.0, weight)


def bce(rows, query, item, other, total, weight):  # type: ignore[no-untyped-def]
    negatives = other[: S * 2].view(2, S, D)[rows % 2]
    return binary_cross_entropy(query, torch.cat([item[:, None], negatives], 1), total, weight)


def of_mimic(rows, query, item, other, total, weight):  # type: ignore[no-untyped-def]
    return mimic(query, item, total, weight) + 0 * other.sum()


def results(loss: Loss, times: Tensor, weight: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """The loss of examples, each so many times, and its gradients."""
    leaves = [unit(rows, D, seed=rows).to(dtype).requires_grad_() for rows in (B, B + 1)]
    other = unit(CANDIDATES, D, seed=9).to(dtype).requires_grad_()
    rows = torch.arange(B).repeat_interleave(times)
    value = loss(rows, leaves[0][rows], leaves[1][:B][rows], other, 17.5, weight)
    value.backward()
    return [value.detach(), *(x.grad for x in (*leaves, other) if x.grad is not None)]


@pytest.mark.parametrize("loss", [softmax, bpr, contrastive, bce, of_mimic])
def test_a_weight_is_so_many_equal_examples(loss: Loss) -> None:
    times = torch.tensor([1, 3, 2, 1, 5, 1, 4])
    weighted = results(loss, torch.ones_like(times), times.double(), torch.float64)
    repeated = results(loss, times, None, torch.float64)
    torch.testing.assert_close(weighted, repeated, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [softmax, bpr, contrastive, bce, of_mimic])
def test_weights_of_1_have_the_bits_of_none(loss: Loss) -> None:
    once = torch.ones(B, dtype=torch.int64)
    ones = results(loss, once, torch.ones(B), torch.float32)
    none = results(loss, once, None, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(ones, none, strict=True))
