"""Build one optimizer over fused tables and dense towers, and schedule their learning rates."""

from typing import Literal

import torch
from torch import nn
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from dat_rec.config import OptimizerConfig
from dat_rec.sharding.shard import EPS
from dat_rec.sharding.table_shards import dense_tables, is_table, table_of

TableOptimizer = Literal["rowwise_adagrad", "adagrad"]


def build_optimizer(
    model: nn.Module, tower_lr: float, table_lr: float, table: TableOptimizer = "rowwise_adagrad"
) -> CombinedOptimizer:
    """Return Adagrad for the tables and Adam for the towers, combined.

    Fused tables run their optimizer in backward; tables that are replicated, and the towers, in
    ``step``.

    Args:
        model: sharded; its fused tables carry their optimizer.
        tower_lr: learning rate of the towers.
        table_lr: learning rate of the tables.
        table: the tables' optimizer: one sum of squared gradients for each row, or each weight.
    """
    parts: list[tuple[str, KeyedOptimizer]] = [("", model.fused_optimizer)]
    # TorchRec marks data-parallel tables, which nothing fused updates, as if they were fused.
    dense = dense_tables(model)
    towers, tables = {}, {}
    for name, parameter in model.named_parameters():
        if not is_table(name):
            towers[name] = parameter
        elif table_of(name) in dense:
            tables[name] = parameter
    if tables:
        kind = RowWiseAdagrad if table == "rowwise_adagrad" else torch.optim.Adagrad
        parts.append(
            ("tables", KeyedOptimizerWrapper(tables, lambda p: kind(p, lr=table_lr, eps=EPS)))
        )
    # One pass over each parameter, where PyTorch has a kernel for it: a third of the time on a CPU.
    fused = all(one.device.type in ("cpu", "cuda") for one in towers.values())
    parts.append(
        (
            "towers",
            KeyedOptimizerWrapper(
                towers, lambda p: torch.optim.Adam(p, lr=tower_lr, fused=fused or None)
            ),
        )
    )
    return CombinedOptimizer(parts)


class LearningRates:
    """Sets the learning rate of every parameter group for a step; it depends on the step alone.

    Args:
        optimizer: the present rates of its groups are the peaks.
        config: warm-up and decay.
        steps: number of steps in the whole run.
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
    """Return the factor on the peak learning rates.

    (step + 1) / (warmup_steps + 1), at most 1; with linear decay, times 1 − step / steps.

    Args:
        step: number of steps done before, from 0.
        steps: number of steps in the whole run.
        config: warm-up and decay.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    decay = 1.0 - step / steps if config.decay == "linear" else 1.0
    return warmup * decay
