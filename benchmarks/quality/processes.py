"""Trials in, their files out: some at a time, each in a process forked from one that has imported.

A process ends when the study does, killed or not, so that no trial is left running; it has threads
of its own, so that trials side by side do not slow one another down.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dat_rec.errors import UserError

if TYPE_CHECKING:
    from benchmarks.quality.trial import Trial

TOLD = 1500
"""Characters of a log's end that a message quotes."""
IMPORTED = [
    "benchmarks.quality.trial",
    "benchmarks.record",
    "dat_rec.retrieval.evaluate",
    "dat_rec.training.train",
]


class TrialError(Exception):
    """A trial failed; what it printed last stands in the message."""


def run_all(trials: Sequence["Trial"], parallel: int, out: Path, what: str) -> None:
    """Run trials, so many at a time; each writes its file into ``out/trials``.

    Args:
        trials: in the order in which they are begun.
        parallel: number of processes at a time.
        out: folder of the study.
        what: the bar's title.

    Raises:
        TrialError: a trial failed, by name, with the end of its log; those that ran beside it have
            ended, and are kept.
    """
    if not trials:
        return
    threads = str(trials[0].judged.threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    waiting = list(reversed(trials))
    failed: list[tuple[Trial, int]] = []
    running: dict[BaseProcess, Trial] = {}
    try:
        with tqdm(total=len(trials), desc=what, unit="trial") as bar:
            while running or (waiting and not failed):
                while waiting and not failed and len(running) < parallel:
                    trial = waiting.pop()
                    begun = context.Process(target=_main, args=(trial, out))
                    begun.start()
                    running[begun] = trial
                wait([process.sentinel for process in running])
                for process in [one for one in running if one.exitcode is not None]:
                    trial = running.pop(process)
                    if process.exitcode:
                        failed.append((trial, process.exitcode))
                    else:
                        (out / "logs" / f"{trial.id}.txt").unlink(missing_ok=True)
                        bar.update()
    finally:
        for left in running:
            left.kill()
            left.join()
    if failed:
        trial, code = failed[0]
        log = out / "logs" / f"{trial.id}.txt"
        end = log.read_text(errors="replace")[-TOLD:] if log.exists() else ""
        raise TrialError(
            f"{trial.arm}, seed {trial.seed}, on {trial.dataset}: the trial ended with exit code "
            f"{code}; start the study again, and it goes on there. The end of {log}:\n{end}"
        )


def _main(trial: "Trial", out: Path) -> None:
    """Run one trial; what it prints goes to its log."""
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study ends this process
    log = out / "logs" / f"{trial.id}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    from benchmarks.quality.trial import run

    try:
        run(trial, out / "runs" / f"{trial.id}-{os.getpid()}", out / "trials")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _end_with_the_study() -> None:
    study = multiprocessing.parent_process()
    if study is not None:
        wait([study.sentinel])
        os._exit(1)
