"""Log a run's metrics from rank 0: TensorBoard's scalars, other trackers', and a progress bar."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import torch.distributed as dist
from tensorboard.summary.writer.event_file_writer import (  # type: ignore[import-untyped]
    EventFileWriter,
)
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchrec.distributed.types import ShardedModule
from tqdm import tqdm

from dat_rec.disk import reason, say
from dat_rec.errors import StoppedError
from dat_rec.runs.curves import tags
from dat_rec.runs.figures import BLOCKS, figure
from dat_rec.training.trackers.background import Background
from dat_rec.training.trackers.tracker import TENSORBOARD, About, Kind, Outcome, opens

QUEUE = 10_000
"""Maximum number of scalars that wait for the disk."""
AGAIN_S = 60.0
"""Seconds after which curves that the disk has refused are tried again."""


def _quieten_writers() -> None:
    """Keep TensorBoard's thread from printing what it also raises where a point is added."""
    before = threading.excepthook

    def hook(told: threading.ExceptHookArgs) -> None:
        of_writer = type(told.thread).__module__ == EventFileWriter.__module__
        if not (of_writer and isinstance(told.exc_value, OSError)):
            before(told)

    threading.excepthook = hook


_quieten_writers()


class LookupTimer:
    """Adds up the seconds that the host spends in the sharded modules' forward.

    These are the lookup and the exchange of its output.
    """

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
    """Writes ``RUN/tensorboard``, feeds trackers and moves the progress bar.

    It does nothing on ranks other than 0.

    Args:
        run: the run's folder.
        steps: number of steps in the whole run.
        done: number of steps done before this start.
        global_batch: examples a step on all ranks.
        clocks: by name, functions that return the seconds spent so far; called at each point.
        options: hyperparameters of the run, by name.
        log_to: names of what takes the curves.
        tags: for trackers, by name.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        done: int,
        global_batch: int,
        clocks: dict[str, Callable[[], float]],
        options: dict[str, Any],
        *,
        log_to: Sequence[str] = (TENSORBOARD,),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        first = dist.get_rank() == 0
        self._run = run
        self._writer: SummaryWriter | None = None
        self._failed_at: float | None = None
        self._begun: list[Any] = []
        self._ended: Any = None
        self._trackers: list[Background] = []
        if first:
            about = About(run, options, tags)
            self._trackers = [
                Background(name, run, opens(name, about))
                for name in dict.fromkeys(log_to)
                if name != TENSORBOARD
            ]
        if first and TENSORBOARD in log_to:
            *self._begun, self._ended = _hyperparameters(options)
            with self._given_up_on_error():
                self._writer = self._open(done + 1)
        self._bar = tqdm(
            total=steps, initial=done, unit="step", desc="train", disable=not first, mininterval=0.5
        )
        self._shown: dict[str, str] = {}
        self._global_batch = global_batch
        self._clocks = clocks
        self._since = time.perf_counter()
        self._clock_marks = {name: read() for name, read in clocks.items()}
        self._steps_since = 0
        self.totals: dict[str, float] = {"seconds": 0.0, "samples": 0.0} | dict.fromkeys(
            clocks, 0.0
        )
        """Totals of this start: seconds, samples, and each clock's seconds."""

    def step(self) -> None:
        """Count one more step."""
        self._bar.update()
        self._steps_since += 1

    def point(
        self,
        step: int,
        losses: dict[str, float],
        lr: float,
        learned: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Log one point of every curve.

        Args:
            step: number (from 1) of the step that was done last.
            losses: loss terms of that step by name, mean over ranks.
            lr: factor on the peak learning rates.
            learned: more curves by name: scalars that the model learns.
        """
        self._shown["loss"] = f"{losses['main']:.4f}"
        self._bar.set_postfix(self._shown, refresh=False)
        losses = {f"loss/{name}": value for name, value in losses.items()}
        seconds = time.perf_counter() - self._since
        samples = self._steps_since * self._global_batch
        scalars = losses | {"lr_factor": lr, "samples_per_s": samples / seconds}
        scalars |= learned
        for name, read in self._clocks.items():
            spent = read() - self._clock_marks[name]
            scalars[f"share/{name}"] = spent / seconds
            self.totals[name] += spent
            self._clock_marks[name] = read()
        self.totals["seconds"] += seconds
        self.totals["samples"] += samples
        self._since, self._steps_since = time.perf_counter(), 0
        self._add("training", step, scalars)

    def validated(self, step: int, record: dict[str, Any]) -> None:
        """Log what a validation found.

        Args:
            step: number (from 1) of the step that was done last.
            record: of ``runs/validations.py``.
        """
        self._shown[record["metric"]] = (
            f"{figure(record['value'], '.4f')} (best {figure(record['best'], '.4f')})"
        )
        self._bar.set_postfix(self._shown, refresh=False)
        found = {
            f"validation/{block}/{name}": value
            for block in (*BLOCKS, "per_user")
            for name, value in record[block].items()
            # Beside numbers of queries, users and pairs, which stay the same.
            if isinstance(value, float)
        }
        self._add("validation", step, found)

    def _add(self, kind: Kind, step: int, scalars: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.add(kind, step, scalars)
        with self._given_up_on_error():
            if self._failed_at is not None and time.monotonic() > self._failed_at + AGAIN_S:
                self._writer, self._failed_at = self._open(step), None
            for name, value in scalars.items():
                if self._writer is not None:
                    self._writer.add_scalar(name, value, step)

    def _open(self, step: int) -> SummaryWriter:
        # A long queue: what a slow disk has not taken yet must not keep the steps.
        folder = str(self._run / "tensorboard")
        writer = SummaryWriter(folder, max_queue=QUEUE, purge_step=step)
        # Each time: nobody knows what the disk has taken of those before.
        _write(writer, self._begun)
        return writer

    @contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        """Go on without curves if the disk refuses them: they are not worth a run."""
        try:
            yield
        except OSError as error:
            self._writer, self._failed_at = None, time.monotonic()
            why = reason(error, self._run)
            say(f"{self._run}/tensorboard: {why}: no curves for {AGAIN_S:.0f} s")

    def summary(self) -> dict[str, float | None]:
        """Return seconds, samples per second and each clock's share, of this start."""
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
        outcome: Outcome = "finished"
        if error is not None:
            outcome = "stopped" if isinstance(error, StoppedError) else "failed"
        for tracker in self._trackers:
            tracker.close(outcome)
        with self._given_up_on_error():
            if self._writer is not None:
                if error is None:
                    _write(self._writer, [self._ended])
                self._writer.close()


def _hyperparameters(options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return summaries for TensorBoard's page of hyperparameters: experiment, start, and end.

    The figures on that page are the last values of the scalars with those names.
    """
    # PyTorch would write a bool as a number.
    simple = {
        name: value if type(value) in (int, float, str) else json.dumps(value)
        for name, value in options.items()
    }
    names = ["loss/main", "samples_per_s", *tags()]
    if options.get("validate_every"):
        names.append(f"validation/{options['stop_by']}")
    found: tuple[Any, Any, Any] = hparams(simple, dict.fromkeys(names, 0.0))
    return found


def _write(writer: SummaryWriter, summaries: Sequence[Any]) -> None:
    # Not by ``add_hparams``, which opens another run, named after the time, in a folder below.
    file: Any = writer.file_writer
    for summary in summaries:
        file.add_summary(summary)
