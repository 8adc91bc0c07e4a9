"""The temperature as a parameter, which the towers' optimizer learns."""

import math

import torch
from torch import Tensor, nn

from dat_rec.config import LEAST_TEMPERATURE


class LearnedTemperature(nn.Module):
    """τ = exp(−θ), with the parameter θ = log 1/τ (Radford et al., ICML 2021, section 2.3).

    Calling it gives τ, a scalar through which gradients flow into θ. Where a step of the optimizer
    has brought τ below ``LEAST_TEMPERATURE``, it is put back there first, as CLIP does: otherwise
    the loss of a model that has learned its examples by heart would fall with τ for ever.

    Args:
        start: τ before the first step.
        dtype: of θ.
    """

    def __init__(self, start: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.log_inverse = nn.Parameter(torch.tensor(-math.log(start), dtype=dtype))

    def forward(self) -> Tensor:
        """Return τ, at least ``LEAST_TEMPERATURE``."""
        with torch.no_grad():
            self.log_inverse.clamp_(max=-math.log(LEAST_TEMPERATURE))
        return torch.exp(-self.log_inverse)

    def value(self) -> float:
        """Return τ, and leave θ as it is."""
        return max(LEAST_TEMPERATURE, math.exp(-self.log_inverse.item()))
