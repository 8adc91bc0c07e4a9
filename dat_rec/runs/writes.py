"""What one start of a run writes in the run's folder, from its plan to its summary.

All ranks call these functions together; rank 0 writes, and looks before each write whether another
start has taken the folder over (``dat_rec.runs.fence``).
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dat_rec.checkpoint.retention import set_aside
from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import copy_rows
from dat_rec.data.stream.example_order import ORDER_VERSION
from dat_rec.dist.agree import wait_for_all_ranks
from dat_rec.files import PARTIAL_SUFFIX, publish, read_json, whole_file, write_json
from dat_rec.option_marks import to_json
from dat_rec.planner.plan_table import plan_to_text
from dat_rec.runs.failure_record import SUMMARY, forget_failure
from dat_rec.runs.fence import JOB
from dat_rec.runs.figures import METRICS
from dat_rec.runs.kept_rows import ROWS
from dat_rec.runs.rank_zero import on_rank_0, patiently
from dat_rec.runs.run_folder import OpenRun, record_failures
from dat_rec.runs.tracked import TRACKERS
from dat_rec.runs.validations import VALIDATIONS

T = TypeVar("T")


def take_over(run: OpenRun) -> None:
    """Keep an earlier start of this job from writing and removing checkpoints; before any is read.

    A start that was not restarted may still be refused: for it nothing is done here.

    Raises:
        SupersededError: the job goes on elsewhere, without the hosts of this start.
    """
    if run.restarted:
        _on_rank_0(run, lambda: run.fence.take(restarted=True))


def begin(
    run: OpenRun, plan: list[dict[str, Any]], steps: int, damaged: tuple[Path, ...] = ()
) -> None:
    """Record configuration, schema and plan; remove an old run that is not resumed.

    Args:
        run: the run.
        plan: of ``plan_to_json``.
        steps: number of steps in the whole run.
        damaged: checkpoints that were passed over, to be set aside.

    Raises:
        SharedError: the folder cannot be written, or another process trains there.
    """
    wait_for_all_ranks()  # a rank that has failed before leaves the folder as it was
    _on_rank_0(run, lambda: _record(run, plan, steps, damaged))
    record_failures(run, begun=True)


def _record(
    run: OpenRun, plan: list[dict[str, Any]], steps: int, damaged: tuple[Path, ...]
) -> None:
    folder = run.folder
    if run.fence.taken:
        run.fence.check()
    else:
        run.fence.take(restarted=False)
    set_aside(damaged)
    _copy_rows(run.dataset, folder)
    for name in ("checkpoints", "tensorboard", TRACKERS):
        if (folder / name).exists() and not run.resume:
            shutil.rmtree(folder / name)
    if not run.resume:
        (folder / VALIDATIONS).unlink(missing_ok=True)
    for left in folder.glob("checkpoints/*" + PARTIAL_SUFFIX):
        # An earlier start that finds itself overtaken may be removing it too.
        shutil.rmtree(left, ignore_errors=True)
    run.dataset.schema.save(folder)
    write_json(folder / "plan.json", plan)
    with whole_file(folder / "plan.txt") as path:
        path.write_text(plan_to_text(plan) + "\n", "utf-8")
    facts = {
        "world_size": run.context.world_size,
        "global_batch": run.global_batch,
        "row_digest": run.dataset.row_digest(),
        "launch": list(run.context.launchers),
        "job": os.environ.get(JOB, ""),
        "steps": steps,
        "order": ORDER_VERSION,
    }
    # Last: config.json says that this folder is a run.
    write_json(folder / "config.json", to_json(run.config) | facts)
    forget_failure(folder)


def _copy_rows(dataset: Dataset, folder: Path) -> None:
    partial = folder / (ROWS + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    copy_rows(dataset.folder, partial)
    publish(partial, folder / ROWS)


def earlier_summary(run: OpenRun) -> dict[str, Any] | None:
    """Return what train.json holds if the run has ended before; else None."""

    def look() -> dict[str, Any] | None:
        path = run.folder / SUMMARY
        if not path.exists():
            return None
        found: dict[str, Any] = read_json(path, "the training's summary")
        print(f"{run.folder}: the run has ended before: nothing to do", file=sys.stderr)
        return found

    return _on_rank_0(run, look)


def announce(run: OpenRun, page: str) -> None:
    """Print what this start is about to do, and keep it in start.txt.

    Results of an older state of the run are removed: they will not be true for long.

    Args:
        run: the run.
        page: of ``start_page``.
    """

    def write() -> None:
        run.fence.check()
        for name in (SUMMARY, METRICS):
            (run.folder / name).unlink(missing_ok=True)
        with whole_file(run.folder / "start.txt") as path:
            path.write_text(page + "\n", "utf-8")
        print(page, file=sys.stderr)

    _on_rank_0(run, write)


def finish(run: OpenRun, summary: dict[str, Any]) -> dict[str, Any]:
    """Write train.json, and return what it holds.

    Raises:
        DiskError: it cannot be written in time.
    """

    def write() -> None:
        run.fence.check()
        write_json(run.folder / SUMMARY, summary)
        forget_failure(run.folder)

    _on_rank_0(run, write, patient=True)
    return summary


def _on_rank_0(run: OpenRun, action: Callable[[], T], *, patient: bool = False) -> T:
    """Do ``action`` on rank 0.

    Where there is a run to go on with, or ``patient``, a full or absent disk is tried again.
    """
    patience_s = run.config.disk_patience_s if patient or run.resume else 0
    return on_rank_0(run.context, lambda: patiently(action, run.folder, patience_s))
