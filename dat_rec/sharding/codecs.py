"""How looked-up vectors and their gradients travel between ranks in half precision.

float16 holds 6e-8 to 65,504, and a gradient of a mean over a batch is small: it travels times
``GRADIENT_SCALE``. With TorchRec's own ``backward_loss_scale`` the numbers are divided on arrival
while they still are float16: the small ones are 0 again, and the large ones were cut off for
nothing. Here they are float32 on both ends. bfloat16 has float32's range, and needs no scale.
"""

from typing import Any, Literal

import torch
from fbgemm_gpu.quantize_comm import QuantizationContext
from fbgemm_gpu.quantize_comm import QuantizedCommCodec as Codec
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import Tensor
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)

Comms = Literal["fp32", "fp16", "bf16"]
GRADIENT_SCALE = 512.0
"""A power of two, so that it rounds nothing: of what is less than 128, nothing is cut off; 1e-8 is
right to 1 %, and what is less than 6e-11 is 0."""


def codecs(comms: Comms, device: torch.device) -> dict[str, Any] | None:
    """TorchRec's registry of codecs; None where numbers travel as they are."""
    kind = {"fp32": CommType.FP32, "fp16": CommType.FP16, "bf16": CommType.BF16}[comms]
    found: dict[str, Any] | None = get_qcomm_codecs_registry(
        QCommsConfig(forward_precision=kind, backward_precision=kind), device=device
    )
    if found is not None and comms == "fp16":
        for both_ways in found.values():
            both_ways.backward = ScaledGradients()
    return found


class ScaledGradients(Codec):  # type: ignore[misc]  # FBGEMM ships no types
    """float16 of ``GRADIENT_SCALE`` times the gradient."""

    def __init__(self) -> None:
        super().__init__(SparseType.FP16, is_fwd=False)

    def encode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        """float32 in, float16 out; what is beyond float16 becomes its largest number."""
        sent: Tensor = super().encode(input_tensor * GRADIENT_SCALE, ctx)
        return sent

    def decode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        """float16 in, float32 out."""
        arrived: Tensor = super().decode(input_tensor, ctx)
        return arrived / GRADIENT_SCALE
