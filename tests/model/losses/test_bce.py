"""Equation (4) against hand-written loops in float64, and its gradient against differences."""

import math

import pytest
import torch

from dat_rec.model.losses import binary_cross_entropy
from tests.model.losses.vectors import B, D, S, unit


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_binary_cross_entropy_is_equation_4() -> None:
    query, item = unit(B, D), unit(B, 1 + S, D, seed=1)
    total = 0.0
    for i in range(B):
        for j in range(1 + S):
            probability = sigmoid(sum(float(query[i, d] * item[i, j, d]) for d in range(D)))
            total -= math.log(probability) if j == 0 else math.log(1 - probability)
    pairs = B * (1 + S)
    found = binary_cross_entropy(query, item, pairs)
    assert found.item() == pytest.approx(total / pairs, abs=1e-12)


def test_binary_cross_entropy_of_orthogonal_vectors_is_ln_2() -> None:
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    item = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    assert binary_cross_entropy(query, item, 2).item() == pytest.approx(math.log(2), abs=1e-12)


def test_parts_of_the_queries_add_up_to_the_whole_and_none_add_nothing() -> None:
    query, item = unit(B, D), unit(B, 1 + S, D, seed=1)
    slices = (slice(0, 3), slice(3, 3), slice(3, B), slice(None))
    *parts, whole = (binary_cross_entropy(query[s], item[s], B * (1 + S)) for s in slices)
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-12)
    assert parts[1].item() == 0


def test_gradients_agree_with_differences() -> None:
    leaves = unit(B, D).requires_grad_(), unit(B, 1 + S, D, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: binary_cross_entropy(*x, 3.5), leaves)
