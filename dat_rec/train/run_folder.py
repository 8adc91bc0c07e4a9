"""The run's folder: who may write there, what is recorded before training and after it.

``RUN`` holds config.json, schema.json, rows/ (what each embedding row stands for), plan.json,
plan.txt, tensorboard/, checkpoints/ and, once training has ended, train.json.
"""

import dataclasses
import fcntl
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist

from dat_rec.config import TrainConfig, differences, to_json
from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import copy_rows
from dat_rec.errors import UserError
from dat_rec.files import PARTIAL_SUFFIX, publish, read_json, whole_file, write_json
from dat_rec.parallel.agree import raise_together
from dat_rec.parallel.plan import plan_to_text
from dat_rec.parallel.process_group import Place
from dat_rec.train.checkpoint import checkpoints
from dat_rec.train.trained import check_same_rows, load_config
from dat_rec.train.warm_start import ROWS, check_warm_start

LOCK = ".lock"
"""Locked by the process that trains in the folder."""


class RunFolder:
    """The folder of one run. All ranks call its methods; the first one reads and writes."""

    def __init__(self, config: TrainConfig, dataset: Dataset, place: Place) -> None:
        self._config = config
        self._dataset = dataset
        self._place = place
        self._path = config.out
        self._lock: IO[str] | None = None
        restarted = [False]

        def look() -> None:
            restarted[0] = _restarted(config.out, place.launchers)

        self._first(look)
        # Hosts count restarts apart: one rank decides.
        dist.broadcast_object_list(restarted)
        if restarted[0]:
            self._config = dataclasses.replace(config, resume=True, overwrite=False)

    def check(self) -> None:
        """Refuse a folder that is taken, or that holds another run than the one to resume.

        Raises:
            SharedError: on every rank.
        """
        self._first(self._check)

    @property
    def resume(self) -> bool:
        """Whether to go on with a run: asked for, or restarted by torchrun."""
        return self._config.resume

    def global_batch(self) -> int:
        """Examples a step, of all ranks: those of the run's first start, whatever its ranks."""
        path = self._path / "config.json"
        if self._config.resume and checkpoints(self._path):
            found = read_json(path, "the run's configuration").get("global_batch")
            if type(found) is not int or found < 1:
                raise UserError(f"{path}: global_batch: {found!r} is no number above 0: train anew")
            return found
        return self._config.batch_size * self._place.world_size

    def begin(self, plan: list[dict[str, Any]]) -> None:
        """Record configuration, schema and plan; remove an old run that is not resumed.

        Raises:
            UserError: on every rank, when the folder cannot be written.
        """
        global_batch = self.global_batch()

        def record() -> None:
            run, config = self._path, self._config
            facts = {
                "world_size": self._place.world_size,
                "global_batch": global_batch,
                "row_digest": self._dataset.row_digest(),
                "launch": list(self._place.launchers),
            }
            self._take_lock()
            self._keep_rows()
            for name in ("checkpoints", "tensorboard"):
                if (run / name).exists() and not config.resume:
                    shutil.rmtree(run / name)
            for left in run.glob("checkpoints/*" + PARTIAL_SUFFIX):
                shutil.rmtree(left)
            self._dataset.schema.save(run)
            write_json(run / "plan.json", plan)
            text = plan_to_text(plan)
            with whole_file(run / "plan.txt") as path:
                path.write_text(text + "\n", "utf-8")
            # Last: what says that this folder is a run.
            write_json(run / "config.json", to_json(config) | facts)
            print(text, file=sys.stderr)

        self._first(record)

    def _keep_rows(self) -> None:
        partial = self._path / (ROWS + PARTIAL_SUFFIX)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        copy_rows(self._dataset.folder, partial)
        publish(partial, self._path / ROWS)

    def _take_lock(self) -> None:
        """Keep a second run out of the folder until this process ends.

        Raises:
            UserError: another process trains here.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock = (self._path / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self._path}: another process trains here: wait for it or stop it, or choose "
                "another --out"
            ) from error

    def forget_results(self) -> None:
        """Remove the results of an older state of the run: they will not be true for long."""

        def forget() -> None:
            for name in ("train.json", "metrics.json"):
                (self._path / name).unlink(missing_ok=True)

        self._first(forget)

    def summary(self) -> dict[str, Any] | None:
        """What train.json holds, if the run has ended before."""
        path = self._path / "train.json"
        found: dict[str, Any] | None = None
        if path.exists():
            found = read_json(path, "the training's summary")
        if found and self._place.is_first:
            print(f"{self._path}: the run has ended before: nothing to do", file=sys.stderr)
        return found

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write train.json, and give it back."""
        self._first(lambda: write_json(self._path / "train.json", summary))
        return summary

    def _first(self, action: Callable[[], None]) -> None:
        """Let the first rank do ``action``; what it refuses, every rank raises."""
        problem = ""
        if self._place.is_first:
            try:
                action()
            except UserError as error:
                problem = str(error)
            except OSError as error:
                where = error.filename or self._path
                problem = f"{where}: cannot be written ({error.strerror}): choose another --out"
        raise_together(problem)

    def _check(self) -> None:
        run, config = self._path, self._config
        if not (config.resume and checkpoints(run)):
            check_warm_start(config, self._dataset.schema)
        is_run = (run / "config.json").exists()
        if is_run and config.resume:
            self._check_resumable()
        elif is_run and not config.overwrite:
            raise UserError(f"{run} holds a run: pass --resume to go on with it, or --overwrite")
        elif run.exists() and not is_run and (not run.is_dir() or not _only_begun(run)):
            raise UserError(f"{run} is there and is no run: choose another --out")

    def _check_resumable(self) -> None:
        """A resumed run is the same run: all that decides its numbers must be as it was."""
        run, config = self._path, self._config
        before = load_config(run)
        if not checkpoints(run):
            return
        # What may change: nothing here decides what is computed (another plan or number of
        # ranks may round otherwise).
        may_change = (
            "data",
            "out",
            "resume",
            "overwrite",
            "checkpoint_every",
            "keep_checkpoints",
            "keep_best",
            "background_saves",
            "log_every",
            "sharding_types",
            "pin",
            "memory_gb",
            "comms",
            "sharding_group_size",
            "timeout_s",
        )
        same = dataclasses.replace(before, **{name: getattr(config, name) for name in may_change})
        if differing := differences(config, same):
            raise UserError(
                f"{run}: --resume with {differing[0]}, in brackets what the run was made with: "
                "give the same options, or another --out"
            )
        check_same_rows(run, self._dataset)
        if self._dataset.schema != type(self._dataset.schema).load(run):
            raise UserError(
                f"{self._dataset.folder}: not the dataset that {run} was begun with (its "
                "schema.json differs): name that dataset, or another --out"
            )


def _only_begun(run: Path) -> bool:
    """Whether a folder without a config.json holds no more than ``begin`` writes before it."""
    names = {path.name.removesuffix(PARTIAL_SUFFIX) for path in run.iterdir()}
    return names <= {LOCK, "schema.json", ROWS, "plan.json", "plan.txt", "config.json"}


def _restarted(run: Path, launchers: tuple[str, ...]) -> bool:
    """Whether a torchrun that has started this very run before starts it again.

    Neither its count of restarts tells, which hosts keep apart, nor its run id, which may be
    given twice.
    """
    path = run / "config.json"
    if not launchers or not path.exists():
        return False
    before = read_json(path, "the run's configuration").get("launch")
    return isinstance(before, list) and not set(launchers).isdisjoint(before)
