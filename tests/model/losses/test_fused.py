"""The softmax by Triton's kernels: as in blocks, on a GPU, or where Triton interprets them.

``TRITON_INTERPRET=1 pytest tests/model/losses/test_fused.py`` runs them on a CPU that has triton.
"""

import importlib.util
import os

import pytest
import torch
from torch import Tensor

from dat_rec.model.losses.blockwise import cross_entropy_of_products

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    *([] if INTERPRETED else [pytest.mark.gpu]),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
]
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.mark.parametrize("weighs", [False, True])
@pytest.mark.parametrize(
    ("queries", "candidates", "width"),
    [(1, 1, 8), (64, 64, 16), (70, 130, 32), (5, 200, 33), (130, 65, 64)],
)
def test_sum_and_gradients_are_those_in_blocks_of_float64(
    queries: int, candidates: int, width: int, *, weighs: bool
) -> None:
    generator = torch.manual_seed(queries + width)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    vectors = [drawn(rows, width) for rows in (queries, queries, candidates)]
    offsets = [3 * drawn(rows) for rows in (queries, candidates)]
    # Few items: most queries have accidental hits, and one has nothing else.
    items = [torch.randint(0, 9, (rows,), generator=generator) for rows in (queries, candidates)]
    if candidates == 1:
        items[1] = items[0].clone()
    weight_B = torch.rand(queries, generator=generator) if weighs else None

    def found(dtype: torch.dtype, device: str, *, fused: bool) -> list[Tensor]:
        leaves = [one.to(device, dtype).requires_grad_() for one in vectors]
        cross_entropy = cross_entropy_of_products
        if fused:
            from dat_rec.model.losses.fused import (
                fused_cross_entropy_of_products as cross_entropy,
            )
        loss = cross_entropy(
            *leaves,
            *(one.to(device, dtype) for one in offsets),
            *(one.to(device) for one in items),
            None if weight_B is None else weight_B.to(device, dtype),
        )
        gradients = torch.autograd.grad(2 * loss, leaves)
        return [one.detach().cpu().double() for one in (loss, *gradients)]

    exact = found(torch.float64, "cpu", fused=False)
    for one, expected in zip(found(torch.float32, DEVICE, fused=True), exact, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)
