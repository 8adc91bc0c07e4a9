"""Checkpoints: whole or absent. Written by all ranks through torch.distributed.checkpoint.

``RUN/checkpoints/step-00001000/`` appears by a rename after every rank's bytes are on the
disk, so a killed run, a full disk or Ctrl-C leaves the older ones and nothing half-written.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import CheckpointException
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.config import TrainConfig, from_json
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import PARTIAL_SUFFIX, fsync_tree, publish, read_json
from dat_rec.model.dat import DAT
from dat_rec.train.objective import TrainTask
from dat_rec.train.optimizers import make_loadable


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The run's whole checkpoints as (step, folder), oldest first."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdigit() and (folder / ".metadata").exists():
            found.append((int(number), folder))
    return sorted(found)


def save(run: Path, step: int, model: nn.Module, optimizer: CombinedOptimizer, keep: int) -> None:
    """Write the checkpoint after ``step`` steps and drop all but the newest ``keep``.

    Called by all ranks together.

    Raises:
        UserError: on every rank, when one of them could not write (a full disk, say).
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    first = dist.get_rank() == 0

    def prepare() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def write() -> None:
        # Ranks share the message through DCP's own exchange: all of them raise together.
        dcp.save(_state(model, optimizer), checkpoint_id=partial)

    def finish() -> None:
        publish(partial, folder)
        for _, old in checkpoints(run)[:-keep]:
            shutil.rmtree(old)

    try:
        if first:
            prepare()
        _agree("", folder)
    except OSError as error:
        _agree(str(error), folder)
    problem = _attempt(write)
    problem = problem or _attempt(lambda: fsync_tree(partial))
    if first and problem:
        shutil.rmtree(partial, ignore_errors=True)
    _agree(problem, folder)
    _agree(_attempt(finish) if first else "", folder)


def _attempt(action: Callable[[], None]) -> str:
    """Run ``action``; the problem in words, or nothing."""
    try:
        action()
    except (OSError, CheckpointException) as error:
        return _reason(error)
    return ""


def _reason(error: BaseException) -> str:
    """The first cause in one line; DCP wraps what went wrong on a rank, with its traceback."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _agree(problem: str, folder: Path) -> None:
    """Raise on every rank if one of them had a problem."""
    problems: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for rank, text in enumerate(problems):
        if text:
            raise UserError(
                f"{folder}: rank {rank} could not write the checkpoint ({text}; "
                f"{shutil.disk_usage(folder.parent.parent).free >> 20} MiB free): free the disk "
                "or mend the folder, then go on with --resume"
            )


def restore(run: Path, model: nn.Module, optimizer: CombinedOptimizer) -> int:
    """Load the newest whole checkpoint into ``model`` and ``optimizer``.

    Returns:
        The number of steps done; 0 when there is no checkpoint.

    Raises:
        UserError: the checkpoint does not fit the model, or is damaged.
    """
    found = checkpoints(run)
    if not found:
        return 0
    step, folder = found[-1]
    make_loadable(optimizer)
    state = _state(model, optimizer)
    _load(state, folder)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return step


def _state(model: nn.Module, optimizer: CombinedOptimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _load(state: dict[str, Any], folder: Path, *, alone: bool = False) -> None:
    try:
        dcp.load(state, checkpoint_id=folder, no_dist=alone)
    except (OSError, CheckpointException, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"{folder}: cannot be loaded ({_reason(error)}): remove it to use an older one, "
            "or train anew"
        ) from error


def load_config(run: Path) -> TrainConfig:
    """The configuration that the run was made with.

    Raises:
        UserError: the folder holds no run, or a malformed one.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(f"{run} is not a run (no config.json): make one with `dat-rec train`")
    return from_json(read_json(path, "the run's configuration"), str(path))


def load_model(run: Path, data: Path | None = None) -> tuple[DAT, Dataset]:
    """The trained model, unsharded and on CPU, with the dataset that it was trained on.

    Args:
        run: folder that ``dat-rec train`` made.
        data: the dataset, if it is no longer where the run found it.

    Raises:
        UserError: no whole checkpoint, or one that does not fit the dataset.
    """
    config = load_config(run)
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run}: no whole checkpoint yet: go on with `dat-rec train … --resume`")
    dataset = Dataset.open(data or config.data)
    task = TrainTask(dataset.schema, config.model, config.loss)
    state = {"model": task.state_dict()}
    _load(state, found[-1][1], alone=True)
    task.load_state_dict(state["model"])
    # Queries and items are embedded apart from now on: no negatives beside them.
    model = DAT(dataset.schema, config.model)
    model.load_state_dict(task.dat.state_dict())
    return model.requires_grad_(False).eval(), dataset
