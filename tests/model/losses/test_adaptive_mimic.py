"""Equation (2) against hand-written loops in float64, and where its gradient stops."""

import pytest
import torch

from dat_rec.model.losses import mimic
from tests.model.losses.vectors import B, D, S, unit


def test_mimic_is_equation_2_over_positive_and_negative_pairs() -> None:
    augmented, item = torch.randn(B, D, dtype=torch.float64), unit(B, 1 + S, D, seed=1)
    total = 0.0
    for i in range(B):
        for j in range(1 + S):
            y = 1.0 if j == 0 else 0.0
            for d in range(D):
                target = float(item[i, j, d])
                total += (y * float(augmented[i, d]) + (1 - y) * target - target) ** 2
    pairs = B * (1 + S)
    assert mimic(augmented, item[:, 0], pairs).item() == pytest.approx(total / pairs, abs=1e-12)


def test_mimic_moves_the_augmented_vector_and_not_its_partner() -> None:
    augmented = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    partner = unit(B, D, seed=1).requires_grad_()
    mimic(augmented, partner, B).backward()
    assert partner.grad is None
    expected = 2 * (augmented - partner) / B
    torch.testing.assert_close(augmented.grad, expected.detach())
