"""Layers that multiply float32 matrices on a CPU by oneDNN, where that is quicker than BLAS.

Which library is the quicker differs by processor: on some of AMD's with AVX-512 oneDNN multiplies
twice as fast as MKL, on those without both are as fast. What PyTorch does by itself is BLAS.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Library = Literal["mkl", "onednn"]
"""mkl: PyTorch's own way, which is MKL on x86 processors and another BLAS elsewhere."""


def has_onednn() -> bool:
    """Whether this build of PyTorch has oneDNN's products of plain tensors."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    )


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16, as PyTorch sees it."""
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is None or bool(asked())


class Linear(nn.Linear):
    """``nn.Linear`` by either library. Only float32 on a CPU goes by oneDNN."""

    library: Library = "mkl"

    def forward(self, features: Tensor) -> Tensor:
        """Map (…, F) to (…, D)."""
        plain = features.dtype == torch.float32 and features.device.type == "cpu"
        if self.library == "mkl" or not plain or torch.is_autocast_enabled("cpu"):
            return super().forward(features)
        rows_NF = features.flatten(0, -2)
        outputs: Tensor = _Product.apply(rows_NF, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return outputs.view(*features.shape[:-1], -1)


def multiply_by(library: Library, model: nn.Module) -> None:
    """Let all such layers of a model use the library."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.library = library


def library_of(model: nn.Module) -> Library | None:
    """What ``multiply_by`` said; None where the model has no such layer."""
    return next((one.library for one in model.modules() if isinstance(one, Linear)), None)


def product(rows_NF: Tensor, weight_DF: Tensor, bias_D: Tensor | None = None) -> Tensor:
    """(N, D): rows · weightᵀ + bias, by oneDNN, without gradients. Float32, on a CPU."""
    multiplied: Tensor = torch.ops.mkldnn._linear_pointwise(
        rows_NF, weight_DF, bias_D, "none", [], None
    )
    return multiplied


class _Product(torch.autograd.Function):
    """``product``, with all three gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, rows_NF: Tensor, weight_DF: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(rows_NF, weight_DF)
        return product(rows_NF, weight_DF, bias_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        rows_NF, weight_DF = ctx.saved_tensors
        of_rows = product(gradient_ND, weight_DF.T) if ctx.needs_input_grad[0] else None
        return of_rows, product(gradient_ND.T, rows_NF.T), gradient_ND.sum(dim=0)
