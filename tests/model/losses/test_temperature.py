"""The temperature as a parameter: where it begins, what it gives, and where it ends."""

import math

import pytest
import torch
from torch import nn

from dat_rec.config import LEAST_TEMPERATURE
from dat_rec.model.losses import LearnedTemperature
from dat_rec.training.objective import learned_temperature


def test_it_begins_at_its_start_and_moves_by_the_log() -> None:
    temperature = LearnedTemperature(0.05, torch.float64)
    assert temperature().item() == pytest.approx(0.05, rel=1e-12)
    temperature().backward()
    assert temperature.log_inverse.grad is not None
    assert temperature.log_inverse.grad.item() == pytest.approx(-0.05, rel=1e-12)
    with torch.no_grad():
        temperature.log_inverse -= math.log(2)
    assert temperature().item() == pytest.approx(0.1, rel=1e-12)


def test_below_its_bound_it_begins_anew_there_and_can_rise() -> None:
    """Clamped in the graph it would have no gradient there, and stay for ever."""
    temperature = LearnedTemperature(0.0101)
    adam = torch.optim.Adam(temperature.parameters(), lr=0.1)
    for sign, expected in ((1, LEAST_TEMPERATURE), (-1, 0.0105)):
        for _ in range(8):
            adam.zero_grad()
            (sign * temperature()).backward()
            adam.step()
        found = temperature.value()
        assert found == pytest.approx(expected, rel=1e-6) if sign == 1 else found > expected


def test_it_is_found_in_a_model_that_learns_it() -> None:
    found = learned_temperature(nn.Sequential(nn.Linear(1, 1), LearnedTemperature(0.07)))
    assert found == pytest.approx(0.07)
    assert learned_temperature(nn.Linear(1, 1)) is None
