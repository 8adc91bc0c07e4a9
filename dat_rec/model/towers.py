"""Concatenated embeddings in, unit vectors out: one tower.

Shapes: B examples, F input width, D output width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tower(nn.Module):
    """h_l = ReLU(W_l h_{l-1} + b_l), p = h_L / ‖h_L‖₂ (paper, section 2.3).

    Args:
        input_dim: F.
        hidden: widths of the hidden layers.
        output_dim: D.
        last_relu: ReLU after the last layer too: the paper's letter, which confines
            scores to [0, 1].
        bfloat16: multiply in bfloat16, and keep weights and outputs in float32 (autocast).
    """

    def __init__(
        self,
        input_dim: int,
        hidden: Sequence[int],
        output_dim: int,
        *,
        last_relu: bool,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.in_bfloat16 = bfloat16
        widths = [input_dim, *hidden, output_dim]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(fan_in, fan_out))
            if i < len(hidden) or last_relu:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Map (…, F) to unit vectors (…, D); a zero vector stays zero."""
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            outputs: Tensor = self.layers(features)
        return F.normalize(outputs.to(features.dtype), dim=-1)
