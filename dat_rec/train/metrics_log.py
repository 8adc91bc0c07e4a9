"""What a run tells while it goes: TensorBoard scalars and one progress bar, from rank 0."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchrec.distributed.types import ShardedModule
from tqdm import tqdm


class LookupTimer:
    """Adds up the host's seconds in the sharded modules' forward: lookup and output exchange."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        self._start = 0.0
        for module in model.modules():
            if isinstance(module, ShardedModule):
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._start


class MetricsLog:
    """Writes ``RUN/tensorboard`` and moves the bar; a no-op on all ranks but the first.

    Args:
        run: the run's folder.
        steps: steps in the whole run.
        done: steps done before this start.
        global_batch: examples a step.
        clocks: seconds spent so far, by name, read at each point.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        done: int,
        global_batch: int,
        clocks: dict[str, Callable[[], float]],
    ) -> None:
        first = dist.get_rank() == 0
        self._writer = (
            SummaryWriter(str(run / "tensorboard"), purge_step=done + 1) if first else None
        )
        self._bar = tqdm(
            total=steps, initial=done, unit="step", desc="train", disable=not first, mininterval=0.5
        )
        self._global_batch = global_batch
        self._clocks = clocks
        self._since = time.perf_counter()
        self._clock_marks = {name: read() for name, read in clocks.items()}
        self._steps_since = 0
        self.totals: dict[str, float] = {"seconds": 0.0, "samples": 0.0} | dict.fromkeys(
            clocks, 0.0
        )
        """Sums over this start: seconds, samples, and each clock's seconds."""

    def step(self) -> None:
        """Note that one more step was done."""
        self._bar.update()
        self._steps_since += 1

    def point(self, step: int, losses: dict[str, float], lr: float) -> None:
        """Log a point.

        Args:
            step: the number (from 1) of the step that was done last.
            losses: its loss terms, mean over ranks.
            lr: factor on the learning rates' peaks.
        """
        self._bar.set_postfix({"loss": f"{losses['main']:.4f}"}, refresh=False)
        losses = {f"loss/{name}": value for name, value in losses.items()}
        seconds = time.perf_counter() - self._since
        samples = self._steps_since * self._global_batch
        scalars = losses | {"lr_factor": lr, "samples_per_s": samples / seconds}
        for name, read in self._clocks.items():
            spent = read() - self._clock_marks[name]
            scalars[f"share/{name}"] = spent / seconds
            self.totals[name] += spent
            self._clock_marks[name] = read()
        self.totals["seconds"] += seconds
        self.totals["samples"] += samples
        self._since, self._steps_since = time.perf_counter(), 0
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def summary(self) -> dict[str, float | None]:
        """Seconds, samples a second, and each clock's share, of this start."""
        seconds = self.totals["seconds"]
        shares = {
            f"{name}_share": self.totals[name] / seconds if seconds else None
            for name in self._clocks
        }
        rate = self.totals["samples"] / seconds if seconds else None
        return {"seconds": seconds, "samples_per_s": rate, **shares}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()
