"""One optimizer over fused tables and dense towers, and the schedule of their learning rates."""

import torch
from torch import nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dat_rec.config import OptimizerConfig


def build_optimizer(model: nn.Module, tower_lr: float) -> CombinedOptimizer:
    """RowWiseAdagrad that already runs in the tables' backward, and Adam on the rest.

    Args:
        model: sharded; its tables carry their optimizer.
        tower_lr: learning rate of the dense parameters.
    """
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda parameters: torch.optim.Adam(parameters, lr=tower_lr),
    )
    return CombinedOptimizer([model.fused_optimizer, ("towers", dense)])


def make_loadable(optimizer: CombinedOptimizer) -> None:
    """Give the towers' Adam its state, so that a checkpoint's moments find a place to load into.

    Without it they are dropped, silently. Only before loading: TorchRec makes the state by a
    step with zero gradients, which counts as Adam's first and would shrink the true one.
    """
    for _, part in optimizer.optimizers:
        if isinstance(part, KeyedOptimizerWrapper):
            part.init_state()


class LearningRates:
    """Sets every parameter group's learning rate for a step: a pure function of the step.

    Args:
        optimizer: its groups' present rates are the peaks.
        config: warm-up and decay.
        steps: steps in the whole run.
    """

    def __init__(self, optimizer: CombinedOptimizer, config: OptimizerConfig, steps: int) -> None:
        self._optimizer = optimizer
        self._config = config
        self._steps = steps
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int) -> float:
        """Set the rates for ``step`` (from 0), and return the factor on their peaks."""
        factor = learning_rate_factor(step, self._steps, self._config)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        return factor


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up to 1 times, if so configured, linear decay to 0 at ``steps``."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    decay = 1.0 - step / steps if config.decay == "linear" else 1.0
    return warmup * decay
