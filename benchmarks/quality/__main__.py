"""Arms × seeds × logs with equal budgets: search on validation, test once, one table.

    python -m benchmarks.quality --data DIR … --out STUDY --trials 20 --steps 4000 --seeds 0 1 2

Each DIR holds a log prepared twice, as ``benchmarks/quality/data.py`` says. Every trial is a file
in STUDY/trials, and STUDY/trials.parquet has them all once a stage is done; started again, a study
goes on with what is missing. ``--table STUDY/trials.parquet`` prints the tables alone.
"""

import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.options import Options, parse
from benchmarks.quality import records, tables
from benchmarks.quality.arms import ARMS, DEFAULTS
from benchmarks.quality.data import StudyData, open_data
from benchmarks.quality.looks import refuse_second_look
from benchmarks.quality.processes import TrialError, run_all
from benchmarks.quality.records import Row
from benchmarks.quality.search import Plan
from benchmarks.quality.smoke import SMOKE, plant
from benchmarks.quality.trial import Judged, Trial
from dat_rec.config import StopBy
from dat_rec.errors import UserError

EVERY_ARM = (DEFAULTS, *ARMS)


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Search each arm on validation, test its best setting with every seed, print the tables."""

    out: Path = Path("study")
    """Folder of the study: trials, logs of what failed, trials.parquet."""
    data: tuple[Path, ...] = ()
    """Folders of logs, each with `tuning` (prepared with a validation span) and `whole`
    (without)."""
    arms: tuple[str, ...] = EVERY_ARM
    """Arms that are compared: defaults, two-tower, '+ augmented vectors', '+ mimic',
    '+ alignment', DAT."""
    baselines: bool = True
    """Rank MostPop, own history, ItemCF and iALS beside them."""
    trials: int = 20
    """Number of settings that each arm is searched in; the first has the defaults."""
    steps: int = 4000
    """Maximum number of steps of a trial of the search."""
    batch_size: int = 0
    """Number of examples in a step of every arm but the defaults; 0: as many as those have."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds that the best setting of each arm is tested with."""
    search_seed: int = 0
    """Random seed of the settings that are drawn."""
    stop_by: StopBy = "new_pairs/HR@100"
    """Metric of the validation that the search goes by."""
    patience: int = 3
    """Number of validations, one an epoch, without a better value after which a trial of the
    search is ended. 0: none is."""
    validation_queries: int = 20_000
    """Maximum number of interactions that a validation ranks. 0: all."""
    blend_history: bool = False
    """Rank all pairs of the test once more with each user's own history blended in, by weights that
    are fitted without it (`dat-rec evaluate --blend-history`)."""
    dims: tuple[int, ...] = ()
    """Dimensions of outputs and augmented vectors to try the best settings with, on validation,
    as in 8 16 32 64 (the paper's figure 2)."""
    sweep_arms: tuple[str, ...] = ("two-tower", "DAT")
    """Arms that --dims is about."""
    parallel: int = 1
    """Number of trials at a time, among which the cores are divided."""
    threads: int = 0
    """Number of threads of a trial; 0: the cores divided by --parallel."""
    search_only: bool = False
    """Stop before the test is read."""
    again: bool = False
    """Read the test although it was read for an arm and seed with another setting or other code;
    the results say so."""
    any_code: bool = False
    """Take trials of other versions of dat_rec for done; the test's too."""
    table: Path | None = None
    """Print the tables of this Parquet file or folder of trials, and do nothing else."""


def main() -> None:
    """Run what is missing, and print the tables."""
    arguments = parse(Arguments)
    try:
        if arguments.table is not None:
            rows = records.read(arguments.table)
            if not rows:
                raise UserError(f"--table {arguments.table}: holds no trials: name a study's")
            print(tables.text(rows))
            return
        with _alone(arguments.out):
            print(_study(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except TrialError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _study(arguments: Arguments) -> str:
    """Run all stages; return the tables."""
    if arguments.smoke:
        arguments = replace(arguments, data=(plant(arguments.out / "world"),), **SMOKE)
    plan = _plan(arguments)
    study = _Study(arguments, plan.judged.code)
    study.run(plan.search(), "search")
    if arguments.dims:
        study.run(plan.sweep(study.rows, arguments.sweep_arms, arguments.dims), "sweep")
    if not arguments.search_only:
        if arguments.baselines:
            study.run(plan.baselines(), "baselines")
        study.run(plan.tests(study.rows), "test")
    return tables.text(study.mine)


class _Study:
    """The trials that there are, and those that belong to this study.

    Args:
        arguments: of the command.
        code: digest of dat_rec's sources.
    """

    def __init__(self, arguments: Arguments, code: str) -> None:
        self._arguments, self._code = arguments, code
        self._ids: set[str] = set()
        self.rows: list[Row] = self._read()

    @property
    def mine(self) -> list[Row]:
        """Rows of the trials that were asked for."""
        return [row for row in self.rows if row["id"] in self._ids]

    def run(self, trials: Sequence[Trial], what: str) -> None:
        """Run the trials that are missing, and write all into one file."""
        arguments = self._arguments
        done = {row["id"] for row in self.rows}
        missing = [trial for trial in trials if trial.id not in done]
        for trial in missing:
            if what != "baselines":
                trial.config(Path(os.devnull))  # what cannot be trained with is said now
            if what == "test" and not arguments.again:
                refuse_second_look(trial)
        steps = sum(trial.setting.get("epochs", 0) * trial.epoch_steps for trial in missing)
        print(f"{what}: {len(missing)} of {len(trials)} to run, {steps:,} steps", file=sys.stderr)
        run_all(missing, arguments.parallel, arguments.out, what)
        self._ids |= {trial.id for trial in trials}
        self.rows = self._read()
        records.write(arguments.out / "trials.parquet", self.rows)

    def _read(self) -> list[Row]:
        found = records.read(self._arguments.out / "trials")
        return [row for row in found if self._arguments.any_code or row["code"] == self._code]


def _plan(arguments: Arguments) -> Plan:
    if unknown := [arm for arm in arguments.arms if arm not in EVERY_ARM]:
        raise UserError(f"--arms {unknown[0]!r}: no such arm: one of {', '.join(EVERY_ARM)}")
    if not arguments.data:
        raise UserError("--data: name one folder or more, each with `tuning` and `whole`")
    if min(arguments.trials, arguments.parallel) < 1 or not arguments.seeds:
        raise UserError("--trials, --parallel and the number of --seeds must be 1 or more")
    cores = len(os.sched_getaffinity(0))
    judged = Judged(
        stop_by=arguments.stop_by,
        patience=arguments.patience,
        validation_queries=arguments.validation_queries,
        blend_history=arguments.blend_history,
        device=arguments.device,
        threads=arguments.threads or max(1, cores // arguments.parallel),
        code=records.code_digest(),
        command=shlex.join(["python", "-m", *sys.orig_argv[2:]]),
    )
    return Plan(
        data=_logs(arguments.data),
        arms=tuple(dict.fromkeys(arguments.arms)),
        trials=arguments.trials,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        search_seed=arguments.search_seed,
        judged=judged,
    )


def _logs(folders: Sequence[Path]) -> tuple[StudyData, ...]:
    found = tuple(open_data(folder) for folder in folders)
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--data: two folders are called {twice!r}: the tables need other names")
    return found


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the study's folder, which the system lets go when the process ends.

    Raises:
        UserError: another process does.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another process runs this study: wait for it") from error
        # What a killed study has left.
        shutil.rmtree(out / "runs", ignore_errors=True)
        yield


if __name__ == "__main__":
    main()
