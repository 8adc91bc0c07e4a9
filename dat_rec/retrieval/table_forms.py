"""Tables in float32 in, what an export stores of them out: float16, or int8 with scales.

Of a row x, float16 stores the nearest of each number; int8 stores q = round(x / s), and for the row
s = max |x| / 127 in float32, of which the tower makes q · s again. A row of zeros has s = 0. The
tower takes the rows that it is asked for as they are stored, and adds them up in float32.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Form = Literal["float32", "float16", "int8"]
FORMS: tuple[Form, ...] = get_args(Form)
LARGEST = 127
"""Of the integers that int8 stores."""
SCALE = ".scale"
"""Ends the name of the parameter that holds a table's scales."""


class StoredTable(nn.Module):
    """Sums of bags of rows that are stored in few bits.

    Args:
        weight: (R, D) float16 or int8.
        scale: (R, 1) float32 of int8; None of float16.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = None if scale is None else nn.Parameter(scale, requires_grad=False)

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """(B, D) float32 sums, of values and offsets as an ``nn.EmbeddingBag`` takes them."""
        rows = F.embedding(values, self.weight).float()
        if self.scale is not None:
            rows = rows * F.embedding(values, self.scale)
        # One row more: embedding_bag takes no table without any.
        rows = F.pad(rows, (0, 0, 0, 1))
        place = torch.arange(values.shape[0])
        return F.embedding_bag(place, rows, offsets, mode="sum", include_last_offset=True)


def stored(block_BD: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """What a parameter stores of some rows of its table.

    Args:
        block_BD: the rows, float32.
        dtype: of the parameter.
        name: of the parameter, which ends in ``SCALE`` if it holds the scales.
    """
    if dtype == torch.float16:
        return block_BD.half()
    if dtype != torch.int8 and not name.endswith(SCALE):
        return block_BD
    scale_B1 = block_BD.abs().amax(dim=1, keepdim=True) / LARGEST
    if name.endswith(SCALE):
        return scale_B1
    divisor_B1 = torch.where(scale_B1 > 0, scale_B1, torch.ones_like(scale_B1))
    return (block_BD / divisor_B1).round().clamp(-LARGEST, LARGEST).to(torch.int8)
