"""Open a run's folder: find out what stands there, and refuse what this start may not use.

``RUN`` holds config.json, schema.json, rows/ (what each embedding row stands for), plan.json,
plan.txt, start.txt, tensorboard/, trackers/ where curves go elsewhere too, checkpoints/,
validations.jsonl where the model is validated, failure.json after a failure and, once training has
ended, train.json. ``open_run`` only reads;
``dat_rec.runs.writes`` writes.
"""

import dataclasses
import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path

from dat_rec.checkpoint.listing import advice, checkpoints
from dat_rec.config import TrainConfig, differences, may_change_on_resume
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.example_order import ORDER_VERSION
from dat_rec.dist.agree import all_gather_object
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.files import PARTIAL_SUFFIX
from dat_rec.preflight.shared_folder import PREFIX
from dat_rec.runs.failure_record import COMMAND, FAILURE, FailureRecord
from dat_rec.runs.fence import JOB, LOCK, WAIT_S, WRITER, Fence
from dat_rec.runs.figures import read_config
from dat_rec.runs.kept_rows import ROWS
from dat_rec.runs.rank_zero import on_rank_0, patiently
from dat_rec.runs.recorded import check_same_rows, load_config
from dat_rec.runs.warm_start import check_warm_start
from dat_rec.storage.address import Address

BEGUN = {LOCK, WRITER, "schema.json", ROWS, "plan.json", "plan.txt", "config.json"}
"""Files that a start which was killed early may leave in a folder that is no run yet."""


@dataclass(frozen=True)
class OpenRun:
    """A run as one start found its folder: the same on every rank. Nothing is written yet."""

    config: TrainConfig
    """The configuration of this start; with ``resume`` if the start is a restart."""
    dataset: Dataset
    context: RankContext
    hosts: tuple[str, ...]
    """Host name of each rank, by rank."""
    restarted: bool
    """Whether the torchrun or the scheduler's job that began this run has started it again."""
    global_batch: int
    """Examples per step on all ranks: those of the run's first start, however many ranks it had."""
    fence: Fence
    """The right of this start to write in the folder; rank 0 takes and checks it."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.out

    @property
    def resume(self) -> bool:
        """Whether to go on from a checkpoint: asked for, or restarted."""
        return self.config.resume


def open_run(config: TrainConfig, dataset: Dataset, context: RankContext) -> OpenRun:
    """Find out what stands in the run's folder; all ranks call this, and rank 0 looks.

    From now on a failure on any rank is recorded in the folder, but for input that is refused.

    Raises:
        SharedError: the folder is taken, or holds another run than the one to resume.
        DiskError: the folder of a run to resume cannot be read in time.
    """
    hosts = tuple(all_gather_object(platform.node()))
    job = os.environ.get(JOB, "")

    def look() -> tuple[bool, int, str]:
        restarted = patiently(
            lambda: _is_restarted(config.out, context.launchers, job),
            config.out,
            config.disk_patience_s if config.resume else 0,
        )
        now = _resumed(config) if restarted else config
        global_batch = patiently(
            lambda: _checked_global_batch(now, dataset, context.world_size),
            config.out,
            config.disk_patience_s if now.resume else 0,
        )
        return restarted, global_batch, uuid.uuid4().hex

    # Each host counts restarts apart, and may see an older state of the folder: one rank decides.
    restarted, global_batch, token = on_rank_0(context, look)
    command = os.environ.get(COMMAND, "")
    wait_s = min(WAIT_S, context.timeout.total_seconds() / 2)
    fence = Fence(config.out, token, context.launchers, command, wait_s)
    now = _resumed(config) if restarted else config
    run = OpenRun(now, dataset, context, hosts, restarted, global_batch, fence)
    record_failures(run, begun=False)
    return run


def record_failures(run: OpenRun, *, begun: bool) -> None:
    """Let this rank record in the folder the failure that ends it.

    Args:
        run: the run.
        begun: whether the run has begun; before, input that is refused leaves no record.
    """
    fence, reporter = run.fence, run.context.failure_reporter
    mirror = run.config.mirror if isinstance(run.config.mirror, Address) else None
    reporter.write = FailureRecord(
        run.folder, fence.token, fence.command, run.context.rank, run.hosts, mirror, begun=begun
    )
    reporter.begun = begun
    reporter.advice = lambda: advice(run.folder)


def _resumed(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, resume=True, overwrite=False)


def _is_restarted(run: Path, launchers: tuple[str, ...], job: str) -> bool:
    """Return whether the torchrun or the scheduler's job that began this run starts it again.

    torchrun's count of restarts cannot be used, because each host keeps its own; nor can its run
    id, because it may be used again.
    """
    if not (launchers or job) or not (run / "config.json").exists():
        return False
    facts = read_config(run)
    before = facts.get("launch")
    if job and facts.get("job") == job:
        return True
    return isinstance(before, list) and not set(launchers).isdisjoint(before)


def _checked_global_batch(config: TrainConfig, dataset: Dataset, world_size: int) -> int:
    """Refuse a folder that this start may not use; return the examples a step on all ranks."""
    run = config.out
    goes_on = config.resume and bool(checkpoints(run))
    if not goes_on:
        check_warm_start(config, dataset.schema)
    is_run = (run / "config.json").exists()
    keeps_batch = goes_on
    if is_run and config.resume:
        before = load_config(run)
        # Without a checkpoint the run starts over, possibly on another number of ranks. With the
        # batch size that it began with it still keeps its global batch.
        keeps_batch = goes_on or before.batch_size == config.batch_size
        if goes_on:
            _check_same_run(config, before, dataset)
    elif is_run and not config.overwrite:
        raise UserError(f"{run} holds a run: pass --resume to go on with it, or --overwrite")
    elif run.exists() and not is_run and (not run.is_dir() or not _only_begun(run)):
        raise UserError(f"{run} is there and is no run: choose another --out")
    if not keeps_batch:
        return config.batch_size * world_size
    found = read_config(run).get("global_batch")
    if type(found) is not int or found < 1:
        raise UserError(
            f"{run / 'config.json'}: global_batch: {found!r} is no number above 0: train anew"
        )
    return found


def _check_same_run(config: TrainConfig, before: TrainConfig, dataset: Dataset) -> None:
    """Refuse to resume with anything that decides the run's numbers and is not as it was."""
    run = config.out
    if read_config(run).get("order") != ORDER_VERSION:
        raise UserError(
            f"{run}: the release that began it took the examples in another order, so that it "
            f"cannot go on: begin a new --out with --warm-start {run}"
        )
    if differing := differences(config, before, but=may_change_on_resume()):
        raise UserError(
            f"{run}: --resume with {differing[0]}, in brackets what the run was made with: "
            "give the same options, or another --out"
        )
    check_same_rows(run, dataset)
    if dataset.schema != type(dataset.schema).load(run):
        raise UserError(
            f"{dataset.folder}: not the dataset that {run} was begun with (its "
            "schema.json differs): name that dataset, or another --out"
        )


def _only_begun(run: Path) -> bool:
    """Return whether a folder without config.json holds only what a start writes before it."""
    names = {path.name.removesuffix(PARTIAL_SUFFIX) for path in run.iterdir()}
    return all(name in BEGUN or name.startswith((PREFIX, FAILURE)) for name in names)
