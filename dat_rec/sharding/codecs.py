"""Half-precision messages: pooled embeddings and their gradients as float16 or bfloat16.

float16 holds 6e-8 to 65,504, and a gradient of a mean over a batch is small: it is multiplied by
``GRADIENT_SCALE`` on its way. With TorchRec's own ``backward_loss_scale`` the numbers are divided
on arrival while they still are float16: the small ones are 0 again, and the large ones were cut
off for nothing. Here they are float32 on both ends. bfloat16 has float32's range, and needs no
scale.
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
"""A power of two, so that it rounds nothing. Gradients below 128 are not cut off, 1e-8 is right to
1 %, and below 6e-11 they become 0."""


def codecs(comms: Comms, device: torch.device) -> dict[str, Any] | None:
    """Return TorchRec's registry of codecs; None for float32, where numbers travel as they are.

    Args:
        comms: dtype of the messages.
        device: of the ranks.
    """
    kind = {"fp32": CommType.FP32, "fp16": CommType.FP16, "bf16": CommType.BF16}[comms]
    found: dict[str, Any] | None = get_qcomm_codecs_registry(
        QCommsConfig(forward_precision=kind, backward_precision=kind), device=device
    )
    if found is not None and comms == "fp16":
        for both_ways in found.values():
            both_ways.backward = ScaledGradients()
    return found


class ScaledGradients(Codec):  # type: ignore[misc]  # FBGEMM ships no types
    """A codec that sends ``GRADIENT_SCALE`` times the gradient as float16."""

    def __init__(self) -> None:
        super().__init__(SparseType.FP16, is_fwd=False)

    def encode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        """Return float16 of a float32 gradient; what is too large becomes float16's maximum."""
        sent: Tensor = super().encode(input_tensor * GRADIENT_SCALE, ctx)
        return sent

    def decode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        """Return the float32 gradient of a float16 message."""
        arrived: Tensor = super().decode(input_tensor, ctx)
        return arrived / GRADIENT_SCALE
