"""The run's folder: who may write there, what is recorded before training and after it.

``RUN`` holds config.json, schema.json, rows/ (what each embedding row stands for), plan.json,
plan.txt, start.txt, tensorboard/, checkpoints/, failure.json after a failure and, once training has
ended, train.json.
"""

import dataclasses
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from dat_rec.checkpoint.checkpoint import set_aside
from dat_rec.checkpoint.found import advice, checkpoints
from dat_rec.config import TrainConfig, differences, to_json
from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import copy_rows
from dat_rec.disk import Patience, keep_trying, may_pass, reason, system_error
from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0, wait_for_all_ranks
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import DiskError, SharedError, SupersededError, UserError
from dat_rec.files import PARTIAL_SUFFIX, publish, read_json, whole_file, write_json
from dat_rec.planner.plan_table import plan_to_text
from dat_rec.preflight.shared_folder import PREFIX
from dat_rec.runs.failure_record import (
    COMMAND,
    FAILURE,
    SUMMARY,
    FailureRecord,
    forget_failure,
)
from dat_rec.runs.fence import JOB, LOCK, WAIT_S, WRITER, Fence
from dat_rec.runs.recorded import check_same_rows, load_config
from dat_rec.runs.warm_start import ROWS, check_warm_start

T = TypeVar("T")


class RunFolder:
    """The folder of one run. All ranks call its methods; the first one reads and writes."""

    def __init__(self, config: TrainConfig, dataset: Dataset, context: RankContext) -> None:
        self._config = config
        self._dataset = dataset
        self._context = context
        self._path = config.out
        self.hosts: tuple[str, ...] = tuple(all_gather_object(platform.node()))
        """Every rank's."""
        self._global_batch: int | None = None

        def look() -> tuple[bool, str]:
            job = os.environ.get(JOB, "")
            return _restarted(config.out, context.launchers, job), uuid.uuid4().hex

        # Hosts count restarts apart: one rank decides.
        self._restarted, token = self._first(look)
        wait_s = min(WAIT_S, context.timeout.total_seconds() / 2)
        command = os.environ.get(COMMAND, "")
        self.fence = Fence(config.out, token, context.launchers, command, wait_s)
        if self._restarted:
            self._config = dataclasses.replace(config, resume=True, overwrite=False)

    def check(self) -> None:
        """Refuse a folder that is taken, or that holds another run than the one to resume.

        Raises:
            SharedError: on every rank.
        """
        self._first(self._check)
        self._leave_failures(begun=False)

    @property
    def resume(self) -> bool:
        """Whether to go on with a run: asked for, or restarted by torchrun or the scheduler."""
        return self._config.resume

    def global_batch(self) -> int:
        """Examples a step, of all ranks: those of the run's first start, whatever its ranks.

        All ranks call it; the first one looks, once.
        """
        if self._global_batch is None:
            self._global_batch = self._first(self._look_for_global_batch)
        return self._global_batch

    def _look_for_global_batch(self) -> int:
        path = self._path / "config.json"
        if self._config.resume and checkpoints(self._path):
            found = read_json(path, "the run's configuration").get("global_batch")
            if type(found) is not int or found < 1:
                raise UserError(f"{path}: global_batch: {found!r} is no number above 0: train anew")
            return found
        return self._config.batch_size * self._context.world_size

    def take_over(self) -> None:
        """Before checkpoints are read: an earlier start of this job writes and drops no more.

        A start that was not restarted may still be refused, and does nothing here.

        Raises:
            SupersededError: the job goes on elsewhere, without the hosts of this start.
        """
        if self._restarted:
            self._first(lambda: self.fence.take(restarted=True))

    def begin(self, plan: list[dict[str, Any]], steps: int, damaged: Sequence[Path] = ()) -> None:
        """Record configuration, schema and plan; remove an old run that is not resumed.

        Args:
            plan: of ``plan_to_json``.
            steps: in the whole run.
            damaged: checkpoints that were passed over, to be set aside.

        Raises:
            UserError: on every rank, when the folder cannot be written.
        """
        global_batch = self.global_batch()

        def record() -> None:
            run, config = self._path, self._config
            facts = {
                "world_size": self._context.world_size,
                "global_batch": global_batch,
                "row_digest": self._dataset.row_digest(),
                "launch": list(self._context.launchers),
                "job": os.environ.get(JOB, ""),
                "steps": steps,
            }
            if self.fence.taken:
                self.fence.check()
            else:
                self.fence.take(restarted=False)
            set_aside(damaged)
            self._keep_rows()
            for name in ("checkpoints", "tensorboard"):
                if (run / name).exists() and not config.resume:
                    shutil.rmtree(run / name)
            for left in run.glob("checkpoints/*" + PARTIAL_SUFFIX):
                # An earlier start that finds itself overtaken may be removing it too.
                shutil.rmtree(left, ignore_errors=True)
            self._dataset.schema.save(run)
            write_json(run / "plan.json", plan)
            with whole_file(run / "plan.txt") as path:
                path.write_text(plan_to_text(plan) + "\n", "utf-8")
            # Last: what says that this folder is a run.
            write_json(run / "config.json", to_json(config) | facts)
            forget_failure(run)

        wait_for_all_ranks()  # a rank that has failed before leaves the folder as it was
        self._first(record)
        self._leave_failures(begun=True)

    def _leave_failures(self, *, begun: bool) -> None:
        """From now on what fails is told in the folder; before the run has begun, no refusals."""
        fence, rank, words = self.fence, self._context.rank, self._context.failure_reporter
        words.write = FailureRecord(
            self._path, fence.token, fence.command, rank, self.hosts, begun=begun
        )
        words.begun = begun
        words.advice = lambda: advice(self._path)

    def _keep_rows(self) -> None:
        partial = self._path / (ROWS + PARTIAL_SUFFIX)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        copy_rows(self._dataset.folder, partial)
        publish(partial, self._path / ROWS)

    def forget_results(self) -> None:
        """Remove the results of an older state of the run: they will not be true for long."""

        def forget() -> None:
            self.fence.check()
            for name in (SUMMARY, "metrics.json"):
                (self._path / name).unlink(missing_ok=True)

        self._first(forget)

    def tell(self, page: str) -> None:
        """Print what this start is about to do, and keep it in start.txt."""

        def write() -> None:
            with whole_file(self._path / "start.txt") as path:
                path.write_text(page + "\n", "utf-8")
            print(page, file=sys.stderr)

        self._first(write)

    def summary(self) -> dict[str, Any] | None:
        """What train.json holds, if the run has ended before."""

        def look() -> dict[str, Any] | None:
            path = self._path / SUMMARY
            if not path.exists():
                return None
            found: dict[str, Any] = read_json(path, "the training's summary")
            print(f"{self._path}: the run has ended before: nothing to do", file=sys.stderr)
            return found

        return self._first(look)

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write train.json, and give it back.

        Raises:
            DiskError: it cannot be written in time.
        """

        def write() -> None:
            self.fence.check()
            write_json(self._path / SUMMARY, summary)
            forget_failure(self._path)

        self._first(write, patient=True)
        return summary

    def _first(self, action: Callable[[], T], *, patient: bool = False) -> T:
        """Let the first rank do ``action``: its result on every rank, or what it refuses.

        Where there is a run to go on with, or ``patient``, it tries again what may pass.
        """
        problem: SharedError | None = None
        result: T | None = None
        patience_s = self._config.disk_patience_s if patient or self._config.resume else 0
        if self._context.is_rank_zero:
            try:
                if patience_s:
                    what = f"{self._path}: rank 0"
                    result = keep_trying(action, Patience(patience_s), what, self._path)
                else:
                    result = action()
            except SupersededError as error:
                problem = error
            except (OSError, UserError) as error:
                problem = self._problem(error, patience_s)
        problem, result = broadcast_from_rank_0((problem, result))
        if problem is not None:
            raise problem
        return cast(T, result)

    def _problem(self, error: OSError | UserError, patience_s: int) -> SharedError:
        """What the first rank could not do, for all."""
        if patience_s and may_pass(error):
            where = getattr(system_error(error), "filename", None) or self._path
            return DiskError(
                f"{where}: {reason(error, self._path)}, tried for {patience_s} s: free the disk or "
                f"mend the folder, then {advice(self._path)}"
            )
        if isinstance(error, UserError):
            return SharedError(str(error))
        where = error.filename or self._path
        return SharedError(f"{where}: cannot be written ({error.strerror}): choose another --out")

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
            "disk_patience_s",
            "log_every",
            "device",
            "sharding_types",
            "pin",
            "memory_gb",
            "topology",
            "comms",
            "sharding_group_size",
            "timeout_s",
            "preflight",
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
    names = {name for name in names if not name.startswith(PREFIX)}
    names = {name for name in names if not name.startswith(FAILURE)}
    return names <= {LOCK, WRITER, "schema.json", ROWS, "plan.json", "plan.txt", "config.json"}


def _restarted(run: Path, launchers: tuple[str, ...], job: str) -> bool:
    """Whether the torchrun, or the scheduler's job, that has started this very run starts it again.

    Of torchrun neither its count of restarts tells, which hosts keep apart, nor its run id,
    which may be given twice.
    """
    path = run / "config.json"
    if not (launchers or job) or not path.exists():
        return False
    facts = read_json(path, "the run's configuration")
    before = facts.get("launch")
    if job and facts.get("job") == job:
        return True
    return isinstance(before, list) and not set(launchers).isdisjoint(before)
