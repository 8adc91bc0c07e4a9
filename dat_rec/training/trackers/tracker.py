"""What a tracker is, which there are, and whether one can be used."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from dat_rec.errors import UserError

TENSORBOARD = "tensorboard"
Kind = Literal["training", "validation"]
"""Whose points: both may have some at one step."""
Outcome = Literal["finished", "stopped", "failed"]


class About(NamedTuple):
    """What a tracker is told of a run."""

    run: Path
    """The run's folder."""
    options: Mapping[str, Any]
    """Hyperparameters by name."""
    tags: Mapping[str, str]
    """By name."""


class Tracker(Protocol):
    """One run of a tracker, open. Anything may be raised; it ends the tracking alone."""

    run_id: str
    """By which it is opened again."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Send values of one step, by the names of their curves."""

    def close(self, outcome: Outcome) -> None:
        """Send what is left, and say how the run ended."""


Opens = Callable[[str | None], Tracker]
"""Opens the tracker's run of an id, or a new one."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        UserError: names the package and how to install it.
    """
    for name in names:
        if name != TENSORBOARD and find_spec(name) is None:
            raise UserError(
                f"--log-to {name}: the package {name} is not installed: run `pip install {name}`, "
                "or leave it out"
            )


def opens(name: str, about: About) -> Opens:
    """Return what opens the run of a tracker; nothing of it is imported yet."""

    def mlflow(run_id: str | None) -> Tracker:
        from dat_rec.training.trackers.mlflow import Mlflow

        return Mlflow(run_id, about)

    def wandb(run_id: str | None) -> Tracker:
        from dat_rec.training.trackers.wandb import Wandb

        return Wandb(run_id, about)

    return {"mlflow": mlflow, "wandb": wandb}[name]
