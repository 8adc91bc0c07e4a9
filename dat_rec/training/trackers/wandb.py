"""A run's curves in Weights & Biases: where, its own variables say (WANDB_PROJECT and others)."""

import os
import uuid
from collections.abc import Mapping

from dat_rec.errors import UserError
from dat_rec.training.trackers.tracker import About, Outcome

PROJECT = "dat_rec"
"""The project of runs for which WANDB_PROJECT names none."""

INIT_S = 30
"""Maximum number of seconds in which a server must answer."""


class Wandb:
    """See ``Tracker``. Its files stand in ``RUN/wandb``; offline ones wait for `wandb sync`.

    Args:
        run_id: to go on with; None: a new run.
        about: the run.

    Raises:
        UserError: there is no API key, and it is not to be offline.
    """

    def __init__(self, run_id: str | None, about: About) -> None:
        import wandb

        # With what the environment and wandb's own files say.
        online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
        if online and not wandb.api.api_key:
            # It would ask for one at the terminal.
            raise UserError("there is no API key: run `wandb login`, or set WANDB_MODE=offline")
        self.run_id = run_id or uuid.uuid4().hex[:16]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.run_id,
            name=os.environ.get("WANDB_NAME", about.run.resolve().name),
            tags=[f"{name}: {value}"[:64] for name, value in about.tags.items()],
            dir=str(about.run),
            # Offline there is nobody who knows the run: it goes on when it is synced.
            resume="allow" if online else None,
            # A process does not end while it waits for a server that does not answer.
            settings=wandb.Settings(console="off", silent=True, init_timeout=INIT_S),
        )
        self._run.config.update(dict(about.options), allow_val_change=True)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """See Tracker."""
        self._run.log(dict(scalars), step=step)

    def close(self, outcome: Outcome) -> None:
        """See Tracker."""
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
