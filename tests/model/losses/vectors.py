"""Random unit vectors and items that the tests of several losses share."""

import torch
from torch import Tensor

from dat_rec.data.stream.batch import Items

B, S, D, K = 7, 3, 5, 4


def unit(*shape: int, seed: int = 0) -> Tensor:
    vectors = torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def known(index: list[int] | Tensor, offset: Tensor | None = None) -> Items:
    index = torch.as_tensor(index)
    return Items(
        index, torch.zeros_like(index), torch.zeros(len(index)) if offset is None else offset
    )
