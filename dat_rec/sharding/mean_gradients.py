"""Average the towers' gradients over ranks, with the same bits in every start of a run.

The order in which an all-reduce adds the ranks' numbers depends on their offset in the message, and
from three ranks on so does the last bit of a sum. PyTorch's DDP orders its messages anew after the
first step of every start, so that a resumed run would not end with the bits of one that nobody
disturbed. Here all gradients travel in one message, in the order of the parameters. It leaves when
the last of them is there, while the tables' gradients are still exchanged, and arrives at the end
of backward.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.variable import Variable
from torchrec.distributed.model_parallel import DataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv


class MeanGradients(DataParallelWrapper):  # type: ignore[misc]  # TorchRec ships no types
    """Wraps all parameters that are no tables, in place of TorchRec's DDP."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        """Give every rank rank 0's towers, and after backward the mean of all gradients.

        Args:
            dmp: the sharded model.
            env: holds the process group.
            device: of the towers.
        """
        module = dmp._dmp_wrapped_module.to(device)
        tables = set(DistributedModelParallel._sharded_parameter_names(module))
        towers = [value for name, value in module.named_parameters() if name not in tables]
        for tower in towers:
            dist.broadcast(tower.detach(), 0, group=env.process_group)
        _Message(towers, env.process_group)


class _Message:
    """The message with one step's gradients; the hooks on the parameters keep it alive."""

    def __init__(self, parameters: Sequence[Tensor], group: dist.ProcessGroup) -> None:
        self._parameters = parameters
        self._group = group
        self._arrived = 0
        self._under_way: tuple[dist.Work, Tensor] | None = None
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrive)

    def _arrive(self, _: Tensor) -> None:
        if not self._arrived:
            Variable._execution_engine.queue_callback(self._finish)
        self._arrived += 1
        if self._arrived == len(self._parameters):
            self._leave()

    def _leave(self) -> None:
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self._parameters
        ]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        work = dist.all_reduce(total, group=self._group, async_op=True)
        assert work is not None, "the collective is asynchronous"
        self._under_way = work, total

    def _finish(self) -> None:
        """Wait at the end of backward, and put the means in the gradients' place."""
        if self._under_way is None:  # a parameter had no part in the loss, on no rank
            self._leave()
        assert self._under_way is not None
        work, total = self._under_way
        work.wait()
        total /= dist.get_world_size(self._group)
        sizes = [parameter.numel() for parameter in self._parameters]
        for parameter, mean in zip(self._parameters, total.split(sizes), strict=True):
            parameter.grad = mean.view_as(parameter)
        self._arrived, self._under_way = 0, None
