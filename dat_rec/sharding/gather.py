"""Gather and sum tensors over ranks, with gradients, while something else is computed.

Each rank computes its share of the global loss; ``MeanGradients`` and TorchRec then average
gradients over ranks. With these functions that average is the gradient of the global batch's
loss: what a rank's vectors contribute to the other ranks' losses flows back to it. (A plain
``dist.all_gather`` stops that gradient, silently.)

A message has two ends, as TorchRec's all-to-alls have: it leaves where the function is called, and
arrives where what it gives is called. Backward, autograd comes from the arriving end, sends the
gradient, takes up what was computed between the ends, and waits at the leaving end.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

# One function: torch 2.13 has renamed it, and warns of the name that 2.11 knows alone.
_GATHER = (
    dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
)
Start = Callable[[Tensor], tuple[dist.Work, Tensor]]
"""Starts a collective. Returns its handle, and the tensor that holds its result afterwards."""


def gather_rows(local: Tensor) -> Callable[[], Tensor]:
    """Send this rank's rows to all ranks.

    Args:
        local: (n, …), of the same shape and dtype on all W ranks.

    Returns:
        A function that waits and returns (W · n, …), by rank. Backward, each rank receives the sum
        of all ranks' gradients of its rows.
    """
    return _send(local, forth=_all_gather, back=_all_to_all)


def sum_over_ranks(local: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
    """Send tensors to be summed over ranks, all in one message.

    Args:
        local: of any shapes, of one dtype; the same on all ranks.

    Returns:
        A function that waits and returns the sums, in the shapes of ``local``. Backward, gradients
        are summed over ranks too.
    """
    if dist.get_world_size() == 1:
        return lambda: local
    arrive = _send(torch.cat([tensor.flatten() for tensor in local]), _all_reduce, _all_reduce)

    def arrive_apart() -> Sequence[Tensor]:
        sums = arrive().split([tensor.numel() for tensor in local])
        return [one.view(tensor.shape) for one, tensor in zip(sums, local, strict=True)]

    return arrive_apart


def _send(local: Tensor, forth: Start, back: Start) -> Callable[[], Tensor]:
    if dist.get_world_size() == 1:
        return lambda: local
    message = _Message(forth, back)
    # What autograd follows from one end to the other: a tensor of no elements.
    token: Tensor = _Leave.apply(local, message)  # type: ignore[no-untyped-call]
    return lambda: _Arrive.apply(token, message)  # type: ignore[no-untyped-call]


class _Message:
    """A tensor on its way forth, or its gradient on its way back."""

    def __init__(self, forth: Start, back: Start) -> None:
        self._forth, self._back = forth, back
        self._under_way: tuple[dist.Work, Tensor] | None = None

    def leave(self, tensor: Tensor) -> None:
        self._under_way = self._forth(tensor.contiguous())

    def leave_back(self, gradient: Tensor) -> None:
        self._under_way = self._back(gradient.contiguous())

    def arrive(self) -> Tensor:
        assert self._under_way is not None
        work, tensor = self._under_way
        self._under_way = None
        work.wait()
        return tensor


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, message: _Message) -> Tensor:
        ctx.message, ctx.shape = message, local.shape
        message.leave(local)
        return local.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        # After a gather each rank has sent a gradient of these rows; after a sum one arrives.
        return ctx.message.arrive().view(-1, *ctx.shape).sum(dim=0), None


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _: Tensor, message: _Message) -> Tensor:
        ctx.message = message
        return message.arrive()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.message.leave_back(gradient)
        return gradient.new_empty(0), None


def _all_gather(local: Tensor) -> tuple[dist.Work, Tensor]:
    rows, *width = local.shape
    gathered = local.new_empty(dist.get_world_size() * rows, *width)
    return _work(_GATHER(gathered, local, async_op=True)), gathered


def _all_to_all(gradient: Tensor) -> tuple[dist.Work, Tensor]:
    received = torch.empty_like(gradient)
    return _work(dist.all_to_all_single(received, gradient, async_op=True)), received


def _all_reduce(local: Tensor) -> tuple[dist.Work, Tensor]:
    total = local.clone()
    return _work(dist.all_reduce(total, async_op=True)), total


def _work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "the collective is asynchronous"
    return work
