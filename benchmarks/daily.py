"""Does going on from yesterday keep up with training anew on all days, and at what cost?

    python -m benchmarks.daily --work FOLDER --rows 40000 --users 6000 --items 3000 --seeds 0 1 2
    python -m benchmarks.daily --work FOLDER --kuairand KUAIRAND --batch-size 512 --seeds 0 1 2

A planted world of drifting taste, with 3 % more users and items a day, or the last 14 days of
KuaiRand-Pure. HR@100 of all pairs of each day, before it is trained on, of four models, all with as
many epochs:

- daily modern (DAT), and daily two-tower: ``dat-rec daily``;
- anew: trained from scratch on all days before;
- untouched: the model of the first day.

Costs are CPU seconds, of all threads, of preparing and training, without evaluation.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.daily_logs import ITEM_FEATURES, USER_FEATURES, write_kuairand, write_world
from benchmarks.record import append, circumstances
from dat_rec.commands import evaluate, prepare, train
from dat_rec.daily.child import in_child
from dat_rec.daily.driver import walk
from dat_rec.daily.root import Day
from dat_rec.daily.steps import Asked
from dat_rec.daily.table import read_rows

FIRST = 2
"""The day of the planted world up to which the first model is trained; days count from 0."""
ARMS = ("daily modern", "daily two-tower", "anew", "untouched")
FIGURE = "HR@100"
COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "prepare": prepare.run,
    "train": train.run,
    "evaluate": evaluate.run,
}


class Costs:
    """CPU seconds of preparing and training, of processes that are forked from this one.

    Args:
        path: file to which they add a line each; there is none yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def command(self, name: str) -> Callable[[Sequence[str]], Any]:
        """A command of ``dat-rec`` that writes down what it costs, but for what evaluates."""

        def run(words: Sequence[str]) -> None:
            begin = time.process_time()
            COMMANDS[name](words)
            if name != "evaluate" and "all" not in words:
                with self._path.open("a") as file:
                    print(time.process_time() - begin, file=file)

        return run

    def by_day(self) -> list[float]:
        """Of each day: one dataset and one training."""
        found = list(map(float, self._path.read_text().split()))
        return [sum(pair) for pair in zip(found[::2], found[1::2], strict=True)]


def measure(
    folder: Path, first: int, days: int, log: tuple[str, ...], flags: tuple[str, ...]
) -> dict[str, Any]:
    """Walk the days with each model; return the figures by arm and day, and the costs by arm.

    Args:
        folder: for datasets and runs.
        first: day up to which the first model is trained; days count from 0.
        days: number of days.
        log: options of ``dat-rec prepare parquet``.
        flags: options of ``dat-rec train``.
    """
    found: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    names = [str(day) for day in range(first, days)]
    for preset in ("modern", "two-tower"):
        arm, root = f"daily {preset}", folder / preset
        cost = Costs(folder / f"{preset}.cost")
        commands = {name: cost.command(name) for name in COMMANDS}
        asked = Asked(log, ("--preset", preset, *flags), export=False)
        walk(root, names, asked, commands, begun={})
        found[arm] = [row[f"all/{FIGURE}"] for row in read_rows(root / "daily.parquet")[1:]]
        # The last day's model is asked of nothing.
        costs[arm] = cost.by_day()[:-1]

    cost = Costs(folder / "anew.cost")
    anew = folder / "anew"
    found |= {"anew": [], "untouched": []}
    for day in range(first + 1, days):
        score = Day(folder / "modern", str(day)).score
        shutil.rmtree(anew, ignore_errors=True)
        made = ("prepare", "parquet", *log, "--to", f"{day - 1}", "--split", "none")
        _do(folder, cost, *made, "--out", f"{anew / 'data'}")
        _do(folder, cost, "train", "--data", f"{anew / 'data'}", "--out", f"{anew / 'run'}", *flags)
        untouched = folder / "modern" / str(first) / "run"
        for arm, run in (("anew", anew / "run"), ("untouched", untouched)):
            asked_ = ("--run", f"{run}", "--data", f"{score}", "--no-fitted-baselines")
            _do(folder, cost, "evaluate", *asked_)
            metrics = json.loads((run / "metrics.json").read_text())
            found[arm].append(metrics["all"][FIGURE])
    costs["anew"] = cost.by_day()
    return {"hr100": found, "cpu_s": costs}


def _do(folder: Path, cost: Costs, name: str, *words: str) -> None:
    in_child(partial(cost.command(name), words), folder / "log.txt", name)


def table(rows: list[dict[str, Any]], first: int) -> str:
    """Means over the seeds, by day and arm; CPU seconds of all days, and of the last one."""
    arms = [arm for arm in ARMS if arm in rows[0]["hr100"]]
    of = {arm: np.mean([row["hr100"][arm] for row in rows], axis=0) for arm in arms}
    lines = [f"{'day':>4}  " + "  ".join(f"{arm:>15}" for arm in arms)]
    for number in range(len(of[arms[0]])):
        cells = "  ".join(f"{of[arm][number]:>15.4f}" for arm in arms)
        lines.append(f"{first + 1 + number:>4}  {cells}")
    lines.append("mean  " + "  ".join(f"{of[arm].mean():>15.4f}" for arm in arms))
    for name, of_days in (("cpu s", sum), ("last", lambda days: days[-1])):
        costs = [
            np.mean([of_days(row["cpu_s"][arm]) for row in rows]) if arm in rows[0]["cpu_s"] else 0
            for arm in arms
        ]
        lines.append(f"{name:<5} " + "  ".join(f"{cost:>15.1f}" for cost in costs))
    return "\n".join(lines)


def main() -> None:
    """Measure each seed, print a table, and write a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder for worlds and runs.")
    parser.add_argument("--days", type=int, default=12)
    parser.add_argument("--rows", type=int, default=10_000, help="Interactions of each day.")
    parser.add_argument("--users", type=int, default=1_500, help="Users of the first day.")
    parser.add_argument("--items", type=int, default=1_500, help="Items of the first day.")
    parser.add_argument("--kuairand", type=Path, help="Folder of KuaiRand-Pure, as its log.")
    parser.add_argument("--epochs", type=int, default=2, help="Of every training.")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="A JSON line each.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, help="File of JSON lines to add to.")
    parser.add_argument("--smoke", action="store_true", help="Show that the script runs.")
    given = parser.parse_args()
    days, rows, users, items = given.days, given.rows, given.users, given.items
    first = 0 if given.kuairand else FIRST
    if given.smoke:
        days, rows, users, items = FIRST + 2, 600, 60, 150
    found = []
    for seed in given.seeds:
        folder = (given.work / f"daily-{seed}").absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tables = ["--interactions", f"{folder / 'log'}", "--items", f"{folder / 'items.parquet'}"]
        if given.kuairand:
            days = write_kuairand(folder, given.kuairand)
            tables += ["--users", f"{folder / 'users.parquet'}", "--separator", "tag=,"]
            tables += ["--category", "category", "--numbers", "video_duration"]
            tables += ["--user-features", *USER_FEATURES, "--item-features", *ITEM_FEATURES]
        else:
            write_world(folder, days, rows, users, items, seed)
            tables += ["--category", "kind"]
        flags = (
            *("--batch-size", f"{given.batch_size}", "--epochs", f"{given.epochs}"),
            *("--device", given.device, "--seed", f"{seed}", "--optimizer.warmup-steps", "10"),
        )
        found.append(measure(folder, first, days, tuple(tables), flags))
        print(table(found, first), file=sys.stderr, flush=True)
        log = {"log": "planted", "days": days, "rows": rows, "users": users, "items": items}
        if given.kuairand:
            log = {"log": "KuaiRand-Pure", "days": days}
        row = {
            "benchmark": "daily",
            **log,
            "epochs": given.epochs,
            "batch_size": given.batch_size,
            "seed": seed,
            **found[-1],
        }
        append(given.results, {**row, **circumstances()})


if __name__ == "__main__":
    main()
