"""A case in, all its commands run and judged: what a user would do from log to recommendations."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.retrieval.trained import load_model
from tests.checkpoint.saved import saved_digests
from tests.end_to_end.forked import forked_ranks, ranks_here
from tests.fuzz import oracles
from tests.fuzz.draw import Case

LIMIT_S = 240
"""A command that takes longer hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    codes: list[int]
    """Exit code of each rank."""
    printed: str

    @property
    def refusal(self) -> str:
        """The line that says why the input was refused; nothing where it was not."""
        if 2 not in self.codes:
            return ""
        lines = [line for line in self.printed.splitlines() if line.startswith("dat-rec")]
        return lines[-1] if lines else "nothing said"


class FaultError(Exception):
    """A case shows a fault."""


class RefusedError(Exception):
    """A command refused its input, as it may."""


def command(*arguments: str | Path, world: int = 1) -> Ended:
    """``dat-rec ARGUMENTS`` on each of ``world`` ranks, in processes that import nothing anew.

    Raises:
        FaultError: it hangs.
    """
    try:
        ended = forked_ranks(arguments, ranks_here(world), LIMIT_S)
    except TimeoutError as error:
        raise FaultError(str(error)) from error
    return Ended(
        [one.returncode for one in ended], "\n".join(one.stdout + one.stderr for one in ended)
    )


class Walk:
    """One case, command by command, in a folder of its own."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._case = case
        self._folder = folder

    def _step(self, *arguments: str | Path, world: int = 1) -> None:
        ended = command(*arguments, world=world)
        if problem := oracles.outcome(ended.codes, ended.printed, self._folder):
            raise FaultError(f"{arguments[0]}: {problem}")
        if ended.refusal:
            raise RefusedError(f"{arguments[0]}: {ended.refusal}")

    def _train(self, out: Path, world: int, batch_size: int, *more: str) -> None:
        options = (*self._case.train, "--batch-size", str(batch_size), *more)
        self._step("train", "--data", self._folder / "data", "--out", out, *options, world=world)

    def walk(self) -> None:
        """Go through all commands.

        Raises:
            FaultError: something is not as it must be.
            RefusedError: a command refused its input.
        """
        case, folder = self._case, self._folder
        data, run = folder / "data", folder / "run"
        self._step("prepare", *case.prepare, "--out", data)
        self._train(run, case.world, case.batch_size)
        self._step("evaluate", "--run", run)
        trained = load_model(run)
        self._judge(oracles.evaluation(trained, json.loads((run / "metrics.json").read_text())))
        self._step("export", "--run", run, "--out", folder / "export")
        self._judge(oracles.exported(trained, folder / "export", case.tolerance))
        k, recs = min(case.k, trained.dataset.schema.items), folder / "recs.parquet"
        self._step("recommend", "--export", folder / "export", "--k", str(k), "--out", recs)
        self._judge(oracles.recommended(trained, recs, k, case.tolerance))
        if case.world > 1 and case.exact:
            self._train(folder / "one", 1, case.batch_size * case.world)
            self._judge(oracles.losses(folder / "one", run))
        self._resume(run)

    def _resume(self, run: Path) -> None:
        """Cut the run back to its first checkpoint, let it go on, and compare."""
        case, found = self._case, checkpoints(run)
        undisturbed = saved_digests(found[-1][1])
        for _, checkpoint in found[1:] or found:
            shutil.rmtree(checkpoint)
        before = run.with_name("before")
        before.mkdir()
        shutil.move(run / "train.json", before / "train.json")
        # The size of a batch is that of the ranks that the run begins with, whoever resumes it.
        self._train(run, case.resumed_world, case.batch_size, "--resume")
        again = checkpoints(run)
        if [step for step, _ in again] != [step for step, _ in found]:
            raise FaultError(f"resumed, the run has checkpoints {again}, before {found}")
        if case.resumed_world != case.world:
            self._judge(oracles.losses(before, run) if case.exact else "")
            return
        resumed = saved_digests(again[-1][1])
        names = sorted(undisturbed.keys() | resumed.keys())
        differing = [name for name in names if undisturbed.get(name) != resumed.get(name)]
        self._judge(f"resumed, {differing} have other bits" if differing else "")

    @staticmethod
    def _judge(problem: str) -> None:
        if problem:
            raise FaultError(problem)
