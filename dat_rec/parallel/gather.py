"""Tensors of all ranks, with gradients that are right.

Each rank computes its share of the global loss; DDP and TorchRec then average gradients
over ranks. With these functions that average is the gradient of the global batch's loss:
what a rank's vectors contribute to the other ranks' losses flows back to it. (A plain
``dist.all_gather`` stops that gradient, silently.)
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor


def gather_rows(local: Tensor) -> Tensor:
    """All ranks' ``local`` tensors, of equal shapes, one after another by rank: (W · n, …)."""
    if dist.get_world_size() == 1:
        return local
    if local.requires_grad:
        return torch.cat(dist_nn.all_gather(local.contiguous()))
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def sum_over_ranks(local: Sequence[Tensor]) -> Sequence[Tensor]:
    """The sums of all ranks' ``local`` tensors, of one dtype, in one message.

    Their gradients are summed over ranks too.
    """
    if dist.get_world_size() == 1:
        return local
    flat: Tensor = dist_nn.all_reduce(torch.cat([tensor.flatten() for tensor in local]))
    parts = flat.split([tensor.numel() for tensor in local])
    return [part.view(tensor.shape) for part, tensor in zip(parts, local, strict=True)]
