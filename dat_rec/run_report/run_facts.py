"""A run's folder in, what its files say of it out; nothing in the folder is changed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.config import TrainConfig
from dat_rec.data.schema import SCHEMA, Schema
from dat_rec.errors import UserError
from dat_rec.files import read_json
from dat_rec.run_report.curves import Curve, read_curves
from dat_rec.runs.figures import METRICS, read_config, read_metrics
from dat_rec.runs.recorded import load_config
from dat_rec.runs.status import Status, status
from dat_rec.runs.validations import read_validations


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder says."""

    folder: Path
    label: str
    """What the page calls it."""
    colour: int
    """0 for the first run."""
    status: Status
    options: dict[str, Any]
    """What config.json holds: the configuration, and facts of the run."""
    config: TrainConfig
    metrics: dict[str, Any] | None
    """What metrics.json holds; None: the run was not evaluated."""
    schema: Schema | None
    """Of the dataset; None where the run is too young to have one."""
    plan: list[dict[str, Any]]
    """Of ``plan_to_json``; empty where there is none."""
    start_page: str
    """What the last start began with; empty where there is none."""
    validations: list[dict[str, Any]]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """The curves of the training, by name; empty where none can be read."""
        return read_curves(self.folder / "tensorboard")

    @property
    def training(self) -> dict[str, Any]:
        """What train.json holds; empty while the run has not ended."""
        return self.status.training or {}

    @property
    def temperature(self) -> float:
        """What inner products were divided by at the end of training."""
        learned = self.training.get("temperature")
        return float(learned) if learned else self.config.loss.temperature

    @property
    def best_checkpoint(self) -> str:
        """The checkpoint that was evaluated, if it is still there, or the newest."""
        steps = {step for step, _ in checkpoints(self.folder)}
        evaluated = (self.metrics or {}).get("checkpoint")
        return str(evaluated) if evaluated in steps else "newest"


def read_runs(runs: Sequence[Path]) -> list[RunFacts]:
    """Read what the runs' folders say.

    Raises:
        UserError: a folder holds no run, or a file of one is malformed.
    """
    return [
        _read(run, label, number)
        for number, (run, label) in enumerate(zip(runs, labels(runs), strict=True))
    ]


def labels(runs: Sequence[Path]) -> list[str]:
    """Return short names of folders that tell them apart: their last parts, or all of the path."""
    last = [run.resolve().name for run in runs]
    if len(set(last)) == len(last):
        return last
    whole = [str(run.resolve()) for run in runs]
    common = os.path.commonpath(whole)
    shorter = [os.path.relpath(path, common) for path in whole]
    return [
        f"{one} ({number})" if shorter.count(one) > 1 else one
        for number, one in enumerate(shorter, 1)
    ]


def _read(run: Path, label: str, colour: int) -> RunFacts:
    options = read_config(run)
    read_metrics(run)  # refuses a file that lacks a figure
    found = run / METRICS
    plan = run / "plan.json"
    page = run / "start.txt"
    return RunFacts(
        folder=run,
        label=label,
        colour=colour,
        status=status(run),
        options=options,
        config=load_config(run),
        metrics=read_json(found, "the evaluation's figures") if found.exists() else None,
        schema=Schema.load(run) if (run / SCHEMA).exists() else None,
        plan=_plan(plan) if plan.exists() else [],
        start_page=page.read_text("utf-8", "replace") if page.exists() else "",
        validations=read_validations(run),
    )


def _plan(path: Path) -> list[dict[str, Any]]:
    found = read_json(path, "the run's plan")
    needed = {"table", "sharding_type", "compute_kernel", "ranks", "shards"}
    if not isinstance(found, list) or not all(
        isinstance(row, dict) and needed <= row.keys() for row in found
    ):
        raise UserError(f"{path}: is no plan of tables: go on with the run by --resume")
    return found
