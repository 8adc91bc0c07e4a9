"""Layers by oneDNN against PyTorch's own, which multiply by BLAS."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dat_rec.model.products import Linear, has_onednn, library_of, multiply_by
from dat_rec.model.towers import Tower

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of PyTorch has no oneDNN")


def both(shape: tuple[int, ...], *, gradient_of_input: bool) -> list[list[Tensor]]:
    """Outputs and gradients of one tower by each library."""
    torch.manual_seed(0)
    tower = Tower(shape[-1], (24, 16), 8, last_relu=False)
    given = torch.randn(shape)
    found = []
    for library in ("mkl", "onednn"):
        twin, features = copy.deepcopy(tower), given.clone().requires_grad_(gradient_of_input)
        multiply_by(library, twin)  # type: ignore[arg-type]
        assert library_of(twin) == library
        outputs = twin(features)
        (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
        gradients = [p.grad for p in (*twin.parameters(), features) if p.grad is not None]
        found.append([outputs.detach(), *gradients])
    return found


@pytest.mark.parametrize("shape", [(64, 40), (1, 40), (5, 7, 40), (33, 1)])
@pytest.mark.parametrize("gradient_of_input", [True, False])
def test_onednn_gives_outputs_and_gradients_of_blas(
    shape: tuple[int, ...], gradient_of_input: bool
) -> None:
    blas, onednn = both(shape, gradient_of_input=gradient_of_input)
    assert len(blas) == len(onednn) == 1 + 6 + gradient_of_input
    for expected, found in zip(blas, onednn, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


def test_onednn_multiplies_indeed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(3, 2)
    monkeypatch.setattr("dat_rec.model.products.product", lambda *_: torch.full((4, 2), 7.0))
    assert not (layer(torch.ones(4, 3)) == 7).any()
    layer.library = "onednn"
    assert (layer(torch.ones(4, 3)) == 7).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_go_by_pytorch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(6, 4, dtype=dtype)
    layer = Linear(6, 4, dtype=dtype)
    layer.load_state_dict(plain.state_dict())
    layer.library = "onednn"
    given = torch.randn(3, 6, dtype=dtype)
    assert torch.equal(layer(given), plain(given))
    layer, plain = layer.float(), plain.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(given.float()), plain(given.float()))


def test_twice_the_same_bits() -> None:
    first, second = (both((128, 40), gradient_of_input=True)[1] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
