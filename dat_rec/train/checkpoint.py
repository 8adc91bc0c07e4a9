"""Checkpoints: whole or absent. Written by all ranks through torch.distributed.checkpoint.

``RUN/checkpoints/step-00001000/`` appears by a rename after every rank's bytes are on the
disk, so a killed run, a full disk or Ctrl-C leaves the older ones and nothing half-written.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint import CheckpointException
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.config import TrainConfig, from_json
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import PARTIAL_SUFFIX, fsync_tree, publish, read_json, sha256, write_json
from dat_rec.model.dat import DAT
from dat_rec.parallel.agree import first_problem, raise_together
from dat_rec.train.objective import TrainTask
from dat_rec.train.optimizers import make_loadable

DIGESTS = "sha256.json"
"""SHA-256 of every other file of a checkpoint."""


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """The run's finished checkpoints as (step, folder), oldest first."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdigit() and (folder / DIGESTS).exists():
            found.append((int(number), folder))
    return sorted(found)


def save(run: Path, step: int, model: nn.Module, optimizer: CombinedOptimizer, keep: int) -> None:
    """Write the checkpoint after ``step`` steps and drop all but the newest ``keep``.

    Called by all ranks together.

    Raises:
        UserError: on every rank, when a weight is not finite, or one of them could not write
            (a full disk, say).
    """
    _check_finite(model)
    folder = run / "checkpoints" / f"step-{step:08d}"
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    first = dist.get_rank() == 0

    def empty() -> None:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def write() -> None:
        dcp.save(_state(model, optimizer), checkpoint_id=partial)

    def seal() -> None:
        own = [path for path in sorted(partial.iterdir()) if _written_by(path) == dist.get_rank()]
        digests[dist.get_rank()] = {path.name: sha256(path) for path in own}
        fsync_tree(partial)

    def finish() -> None:
        if first:
            merged = {name: digest for part in digests for name, digest in part.items()}
            write_json(partial / DIGESTS, merged)
            publish(partial, folder)
            for _, old in checkpoints(run)[:-keep]:
                drop(old)

    digests: list[dict[str, str]] = [{}] * dist.get_world_size()
    try:
        for action in (empty, write, seal):
            _together(action, folder)
        dist.all_gather_object(digests, digests[dist.get_rank()])
        _together(finish, folder)
    finally:
        if first:
            shutil.rmtree(partial, ignore_errors=True)


def _check_finite(model: nn.Module) -> None:
    """Keep a diverged model from taking a good checkpoint's place."""
    bad = ""
    for name, tensor in model.state_dict().items():
        sharded = isinstance(tensor, ShardedTensor)
        for part in [shard.tensor for shard in tensor.local_shards()] if sharded else [tensor]:
            # One pass, where isfinite(part).all() would make a second tensor.
            if part.is_floating_point() and not part.sum(dtype=torch.float64).isfinite():
                bad = f"{name} is not finite: lower the learning rates in a new --out; the older "
                bad += "checkpoints are whole"
    raise_together(bad)


def _written_by(path: Path) -> int:
    """The rank that wrote a file: ``__RANK_NUMBER.distcp``; rank 0 for the metadata."""
    return int(path.name.split("_")[2]) if path.suffix == ".distcp" else 0


def drop(folder: Path) -> None:
    """Remove a checkpoint, which at no moment looks finished and is not."""
    doomed = folder.with_name(folder.name + ".old" + PARTIAL_SUFFIX)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _together(action: Callable[[], None], folder: Path) -> None:
    """Do ``action`` on every rank; if it fails on one, every rank raises, and says which."""
    problem, interrupted = "", False
    try:
        action()
    except KeyboardInterrupt:
        problem, interrupted = "interrupted", True
    except (OSError, CheckpointException) as error:
        interrupted = _was_interrupted(error)
        # DCP raises on every rank; where it went wrong, that rank speaks, and for its own disk.
        if not isinstance(error, CheckpointException) or dist.get_rank() in error.failures:
            problem = f"{_reason(error)}; {_free(folder)}"
    rank, text = first_problem(problem)
    if interrupted:
        raise KeyboardInterrupt
    if text:
        raise UserError(
            f"{folder}: rank {rank} could not write the checkpoint ({text}): free the disk or "
            "mend the folder, then go on with --resume"
        )


def _was_interrupted(error: BaseException) -> bool:
    """Whether it was Ctrl-C; DCP wraps that too."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else ()
    return any(isinstance(cause, KeyboardInterrupt) for cause, _ in failures)


def _reason(error: BaseException) -> str:
    """The first cause in one line; DCP wraps what went wrong on a rank, with its traceback."""
    if isinstance(error, CheckpointException) and error.failures:
        error, _ = next(iter(error.failures.values()))
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _free(folder: Path) -> str:
    there = next(path for path in folder.parents if path.exists())
    return f"{shutil.disk_usage(there).free >> 20} MiB free"


def newest_whole(run: Path, *, alone: bool = False) -> tuple[int, Path] | None:
    """The newest checkpoint whose files are those that were written; None if there is none at all.

    Damaged ones are passed over, said aloud. Without ``alone`` all ranks share the work.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    found = checkpoints(run)
    for step, folder in reversed(found):
        damage = _damage(folder, alone=alone)
        if not damage:
            return step, folder
        if alone or dist.get_rank() == 0:
            print(f"{folder}: damaged ({damage}): looking for an older one", file=sys.stderr)
    if found:
        raise UserError(f"{run}: every checkpoint is damaged: train anew, with --overwrite")
    return None


def _damage(folder: Path, *, alone: bool) -> str:
    """What is wrong with a checkpoint's files, or nothing; the same on all ranks."""
    rank, ranks = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    problem = ""
    try:
        digests = read_json(folder / DIGESTS, "the checkpoint's digests")
        for name, digest in sorted(digests.items())[rank::ranks]:
            if sha256(folder / name) != digest:
                raise UserError(f"{name}: SHA-256 differs from {DIGESTS}")
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    except (UserError, AttributeError) as error:
        problem = str(error)
    return problem if alone else first_problem(problem)[1]


def restore(run: Path, model: nn.Module, optimizer: CombinedOptimizer) -> int:
    """Load the newest whole checkpoint into ``model`` and ``optimizer``.

    Returns:
        The number of steps done; 0 when there is no checkpoint.

    Raises:
        UserError: the checkpoint does not fit the model, or all are damaged.
    """
    found = newest_whole(run)
    if found is None:
        return 0
    step, folder = found
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
        if _was_interrupted(error):
            raise KeyboardInterrupt from error
        raise UserError(
            f"{folder}: does not fit the model ({_reason(error)}): use the options and the "
            "version that it was made with, or train anew"
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


@dataclass(frozen=True)
class Trained:
    """A run, loaded: the model unsharded and on CPU, without gradients."""

    model: DAT
    dataset: Dataset
    step: int
    """Steps done when the checkpoint was written."""


def load_model(run: Path, data: Path | None = None) -> Trained:
    """The model of the run's newest whole checkpoint, with the dataset that it was trained on.

    Args:
        run: folder that ``dat-rec train`` made.
        data: the dataset, if it is no longer where the run found it.

    Raises:
        UserError: no whole checkpoint, or another dataset than that of the training.
    """
    config = load_config(run)
    found = newest_whole(run, alone=True)
    if found is None:
        raise UserError(f"{run}: no whole checkpoint yet: go on with `dat-rec train … --resume`")
    step, folder = found
    dataset = Dataset.open(data or config.data)
    check_same_rows(run, dataset)
    task = TrainTask(dataset.schema, config.model, config.loss)
    state = {"model": task.state_dict()}
    _load(state, folder, alone=True)
    task.load_state_dict(state["model"])
    # Queries and items are embedded apart from now on: no negatives beside them.
    model = DAT(dataset.schema, config.model)
    model.load_state_dict(task.dat.state_dict())
    return Trained(model.requires_grad_(False).eval(), dataset, step)


def check_same_rows(run: Path, dataset: Dataset) -> None:
    """Refuse a dataset whose ids and values have other embedding rows than the run's.

    Raises:
        UserError: they differ, or the run does not say.
    """
    facts = read_json(run / "config.json", "the run's configuration")
    if facts.get("row_digest") != dataset.row_digest():
        raise UserError(
            f"{dataset.folder}: not the dataset that {run} was trained on: its users, items or "
            "values stand in other embedding rows: name that dataset with --data, or train anew"
        )
