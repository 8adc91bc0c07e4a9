"""Is a run that was killed anywhere, and restarted, the run that nobody disturbed?

    python -m tests.chaos --kills 20

Trains a small planted world on two ranks and on three, undisturbed. Then every run of one of these
commands, in turns, gets one kill -9 at a random moment: a third of them while a checkpoint is being
written, the others anywhere between the first rank's start and the run's end. Mostly a random rank
dies, and torchrun restarts them all; in every fifth run torchrun dies with its ranks, and the same
command is given again with --resume. Each run must exit with 0, must go on from the newest
checkpoint that there was, and must end with the undisturbed run's weights, accumulators and Adam
states, bit for bit.
"""

import json
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.files import OLD_SUFFIX
from tests.checkpoint.saved import saved_digests
from tests.end_to_end.launched import Launched, launched, send

RANKS = (2, 3)
"""World sizes, in turns. From three on, the order of additions shows in the last bits."""
RESTARTS = 3
EVERY = 7
"""Steps between checkpoints."""
FLAGS = (
    *("--batch-size", "80", "--model.embedding-dim", "8", "--model.hidden", "16"),
    *("--epochs", "2", "--checkpoint-every", str(EVERY), "--log-every", "5"),
    *("--examples.lanes", "4"),
)


@dataclass(frozen=True)
class Arguments:
    """Kill a training at random moments, and compare what comes of it with an undisturbed one."""

    kills: int = 20
    """Runs, with a kill each."""
    seed: int = 0
    """Decides what is killed, and when."""
    kill_launcher_every: int = 5
    """Every Nth run, in which the kill takes torchrun along; 0: never."""
    hang_s: float = 120.0
    """A run that has not ended so long after its kill hangs."""
    data: Path | None = None
    """A prepared dataset; a small planted world without it."""
    work: Path | None = None
    """Folder of the runs; a temporary folder without it. Failing ones stay."""
    smoke: bool = False
    """Three kills, the last with torchrun."""


@dataclass(frozen=True)
class Plan:
    """One kill."""

    ranks: int
    """World size of the run."""
    whole_tree: bool
    rank: int
    at_checkpoint: int
    """The number (from 1) of the checkpoint to kill in, or 0."""
    delay_s: float
    """Seconds from the ranks' start, or from the moment at which that checkpoint begins."""


@dataclass(frozen=True)
class Undisturbed:
    """What a run with a kill is compared with."""

    steps: int
    lifetime_s: float
    """Seconds from the ranks' start to the end."""
    saved: dict[str, str]
    """Bytes of its last checkpoint, by tensor."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    moment_s: float
    """Seconds of the kill, after the ranks' start."""
    step: int
    """Step of the newest checkpoint then; 0: there was none."""
    writing: str
    """The folders of checkpoints that stood half-written or half-removed, after the kill."""
    seconds: float
    """Seconds from the kill to the end."""
    problem: str
    """Nothing when the run ended as the undisturbed one."""


def main() -> None:
    """Make the runs, print a line for each and a summary; exit 1 if any differs."""
    arguments = tyro.cli(Arguments)
    kills, every = arguments.kills, arguments.kill_launcher_every
    if arguments.smoke:
        kills, every = 3, 3
    work = arguments.work or Path(tempfile.mkdtemp(prefix="dat_rec-chaos-"))
    work.mkdir(parents=True, exist_ok=True)
    data = arguments.data or work / "data"
    if not data.exists():
        prepare(Synthetic(out=data, users=300, items=200, interactions=9_000, categories=5))

    begin = time.perf_counter()
    whole = {ranks: undisturbed(data, work / f"undisturbed-{ranks}", ranks) for ranks in RANKS}

    generator = np.random.Generator(np.random.Philox(key=arguments.seed))
    outcomes = []
    for number in tqdm(range(kills), desc="kills", unit="run"):
        run = work / f"run-{number:03d}"
        plan = draw(generator, number, every, whole)
        outcome = disturbed(data, run, plan, arguments.hang_s, whole[plan.ranks])
        while outcome is None:  # over before its kill: another moment
            shutil.rmtree(run)
            plan = draw(generator, number, every, whole)
            outcome = disturbed(data, run, plan, arguments.hang_s, whole[plan.ranks])
        outcomes.append(outcome)
        tqdm.write(line(number, plan, outcome))
        if not outcome.problem:
            shutil.rmtree(run)
            run.with_suffix(".log").unlink()
    failed = [outcome for outcome in outcomes if outcome.problem]
    seconds = np.array([outcome.seconds for outcome in outcomes])
    summary = {
        "name": "chaos",
        "runs": len(outcomes),
        "equal": len(outcomes) - len(failed),
        "kills_in_a_checkpoint": sum(bool(outcome.writing) for outcome in outcomes),
        "kills_before_the_first": sum(not outcome.step for outcome in outcomes),
        "kills_with_launcher": len(outcomes) // every if every else 0,
        "ranks": list(RANKS),
        "steps": [whole[ranks].steps for ranks in RANKS],
        "seed": arguments.seed,
        "seconds_to_the_end_median": round(float(np.median(seconds)), 1),
        "seconds_to_the_end_most": round(float(seconds.max()), 1),
        "seconds": round(time.perf_counter() - begin),
    }
    print(json.dumps(summary))
    if failed:
        print(f"the failed runs and their logs are in {work}", file=sys.stderr)
        sys.exit(1)
    if arguments.work is None:
        shutil.rmtree(work)


def draw(
    generator: np.random.Generator, number: int, every: int, whole: dict[int, Undisturbed]
) -> Plan:
    """The kill of run ``number``: every third one while a checkpoint is written."""
    ranks = RANKS[number % len(RANKS)]
    written, lifetime_s = whole[ranks].steps // EVERY, whole[ranks].lifetime_s
    in_checkpoint = number % 3 == 0
    return Plan(
        ranks=ranks,
        whole_tree=bool(every) and number % every == every - 1,
        rank=int(generator.integers(ranks)),
        at_checkpoint=int(generator.integers(1, written + 1)) if in_checkpoint else 0,
        delay_s=float(generator.uniform(0, 0.02 if in_checkpoint else lifetime_s)),
    )


def line(number: int, plan: Plan, outcome: Outcome) -> str:
    """One run, for the eye."""
    hit = "torchrun and all" if plan.whole_tree else f"rank {plan.rank} of"
    hit += f" {plan.ranks} ranks" if plan.whole_tree else f" {plan.ranks}"
    writing = f" while {outcome.writing} was there" if outcome.writing else ""
    newest = f"step {outcome.step}" if outcome.step else "none"
    return (
        f"{number:3d}: {hit} killed after {outcome.moment_s:.2f} s{writing}, newest checkpoint "
        f"{newest}; {outcome.seconds:.1f} s to the end: {outcome.problem or 'equal'}"
    )


def undisturbed(data: Path, out: Path, ranks: int) -> Undisturbed:
    """Train to the end."""
    begin = time.perf_counter()
    with launched(data, out, *FLAGS, ranks=ranks, forks=False) as run:
        run.wait_until(lambda: len(run.ranks()) == ranks)
        started = time.perf_counter() - begin
        code = run.wait(600)
    if code != 0:
        sys.exit(f"the undisturbed run failed: see {run.log}")
    ended = time.perf_counter() - begin
    steps, last = checkpoints(out)[-1]
    print(
        f"undisturbed on {ranks} ranks: {ended:.1f} s, they started after {started:.1f} s; "
        f"{steps} steps"
    )
    return Undisturbed(steps, ended - started, saved_digests(last))


def disturbed(
    data: Path, out: Path, plan: Plan, hang_s: float, whole: Undisturbed
) -> Outcome | None:
    """Train, kill, let it go on, and compare; nothing if the run ended before its kill."""
    with launched(data, out, *FLAGS, ranks=plan.ranks, restarts=RESTARTS, forks=False) as run:
        run.wait_until(lambda: len(run.ranks()) == plan.ranks)
        begin = time.perf_counter()
        if plan.at_checkpoint:
            wait_for_checkpoint(run, plan.at_checkpoint)
        time.sleep(plan.delay_s)
        victim = run.ranks().get(plan.rank)
        if victim is None:
            return None
        killed_at = time.perf_counter()
        if plan.whole_tree:
            run.kill_all()
        else:
            send(victim, signal.SIGKILL)
        writing = ", ".join(sorted(path.name for path in run.partials()))
        found = checkpoints(out)
        newest = found[-1][0] if found else 0
        code = None if plan.whole_tree else run.wait(hang_s)
    if plan.whole_tree:
        more = ("--resume",)
        with launched(
            data, out, *FLAGS, *more, ranks=plan.ranks, restarts=RESTARTS, forks=False
        ) as run:
            code = run.wait(hang_s)
    seconds = time.perf_counter() - killed_at
    problem = compare(run, code, newest, whole)
    return Outcome(killed_at - begin, newest, writing, seconds, problem)


def wait_for_checkpoint(run: Launched, number: int) -> None:
    """Wait until the ``number``-th checkpoint begins to be written."""
    seen: set[str] = set()

    def begun() -> bool:
        seen.update(path.name for path in run.partials() if not path.name.endswith(OLD_SUFFIX))
        return len(seen) >= number

    run.wait_until(begun)


def compare(run: Launched, code: int | None, newest: int, whole: Undisturbed) -> str:
    """How the run differs from the undisturbed one; nothing if it does not."""
    if code is None:
        return "HANGS"
    if code:
        return f"EXIT CODE {code}"
    found = checkpoints(run.out)
    if not found or found[-1][0] != whole.steps:
        return "NO LAST CHECKPOINT"
    if left := run.partials():
        return f"LEFT {left[0].name}"
    resumed = re.findall(r"^resumed after step (\d+)", run.output(), re.MULTILINE)
    if newest and (not resumed or int(resumed[0]) < newest):
        return f"WENT ON AFTER STEP {resumed[0] if resumed else 0}, NOT {newest}"
    ours, expected = saved_digests(found[-1][1]), whole.saved
    differing = [name for name in expected.keys() | ours if expected.get(name) != ours.get(name)]
    return f"{len(differing)} TENSORS DIFFER: {min(differing)}" if differing else ""


if __name__ == "__main__":
    main()
