"""Say how a run stands, from its folder alone, on any host that sees it, while it trains or not.

Standard library only, so that it answers at once. Nothing in the folder is changed.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dat_rec.checkpoint.listing import checkpoints, usual_command
from dat_rec.errors import UserError
from dat_rec.runs.failure_record import SUMMARY, in_one_line, read_failure
from dat_rec.runs.fence import LOCK, is_locked, read_writer
from dat_rec.runs.figures import (
    metrics_words,
    next_command,
    read_config,
    read_metrics,
    read_summary,
    trained_words,
)
from dat_rec.runs.validations import read_validations, validation_words

State = Literal["training", "ended", "failed", "stopped", "begun"]


@dataclass(frozen=True)
class Status:
    """How a run stands."""

    run: str
    state: State
    """``training``: a process holds the run's lock. ``ended``: train.json is there. ``stopped``: it
    was asked to stop. ``failed``: it recorded a failure, or its processes died without a record.
    ``begun``: they died so before there was a checkpoint."""
    step: int
    """Number of steps of the newest checkpoint; 0 without one."""
    steps: int
    """Number of steps in the whole run."""
    checkpoint_age_s: float | None
    """Seconds since the newest checkpoint was written."""
    host: str | None
    """Host of rank 0 in the last start."""
    failure: dict[str, Any] | None
    """What failure.json holds: kind, rank, host, reason, time, and the rank that reports it. None
    if the run trains or has ended well."""
    command: str
    """Command to go on with the run; empty if it trains or has ended."""
    training: dict[str, Any] | None = None
    """What train.json holds once the run has ended: steps, loss, samples_per_s and more."""
    validation: dict[str, Any] | None = None
    """The last record of ``dat_rec.runs.validations``, where the model is validated."""
    metrics: dict[str, Any] | None = None
    """What ``dat_rec.runs.figures.read_metrics`` returns once the run was evaluated."""

    def text(self) -> str:
        """Return the status as lines for a terminal."""
        lines = [f"{self.run}: {self.state}"]
        age = "" if self.checkpoint_age_s is None else f", {_age(self.checkpoint_age_s)} old"
        newest = f"step {self.step:,} of {self.steps:,}{age}" if self.step else "none"
        lines.append(f"newest checkpoint: {newest}")
        if self.failure:
            lines.append(f"{in_one_line(self.failure)} ({self.failure.get('time')})")
        elif self.state == "failed":
            lines.append(f"its processes, on {self.host}, died without a word (killed?)")
        if self.training:
            lines.append(trained_words(self.training))
        elif self.validation:
            lines.append(f"validated at {validation_words(self.validation)}")
        if self.metrics:
            lines.append(f"evaluated at {metrics_words(self.metrics)}")
        if self.command:
            lines.append(f"to go on: {self.command}")
        if self.training:
            lines.append(f"next: {next_command(Path(self.run), self.training, self.metrics)}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return asdict(self)


def status(run: Path) -> Status:
    """Return how the run in that folder stands.

    Raises:
        UserError: the folder holds no run.
    """
    is_run = (run / "config.json").exists()
    failure = read_failure(run)
    if not is_run and failure is not None:
        command = failure.get("command", "")
        return Status(str(run), "failed", 0, 0, None, failure.get("host"), failure, command)
    if not is_run and (run / LOCK).exists():
        raise UserError(
            f"{run}: a run that has not begun yet, or could not: see what its job has printed"
        )
    steps = read_config(run).get("steps")
    writer = read_writer(run)
    found = checkpoints(run)
    state = _state(run, failure, has_checkpoint=bool(found))
    validations = read_validations(run)
    ended_or_trains = state in ("ended", "training")
    return Status(
        run=str(run),
        state=state,
        step=found[-1][0] if found else 0,
        steps=steps if isinstance(steps, int) else 0,
        checkpoint_age_s=time.time() - found[-1][1].stat().st_mtime if found else None,
        host=writer.get("host"),
        failure=failure,
        command="" if ended_or_trains else writer.get("command") or usual_command(run),
        training=read_summary(run),
        validation=validations[-1] if validations else None,
        metrics=read_metrics(run),
    )


def _state(run: Path, failure: dict[str, Any] | None, *, has_checkpoint: bool) -> State:
    if (run / SUMMARY).exists():
        return "ended"
    if failure is not None:
        return "stopped" if failure.get("kind") == "stopped" else "failed"
    if is_locked(run):
        return "training"
    return "failed" if has_checkpoint else "begun"


def _age(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{max(0.0, seconds):.0f} s"
