"""Does going on from yesterday keep up with training anew on all days, and at what cost?

    python -m benchmarks.daily --work FOLDER --days 12 --seeds 1

A planted world of drifting taste, with 3 % more users and items a day. HR@100 of all pairs of each
day, before it is trained on, of four models, all with as many epochs:

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
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import append, circumstances
from dat_rec.commands import evaluate, prepare, train
from dat_rec.daily.child import in_child
from dat_rec.daily.driver import walk
from dat_rec.daily.root import Day
from dat_rec.daily.steps import Asked
from dat_rec.daily.table import read_rows

GROWTH, DRIFT, SHARPNESS, DIM, CATEGORIES = 1.03, 0.25, 8.0, 16, 12
FIRST = 2
"""The day up to which the first model is trained; days count from 0."""
ARMS = ("daily modern", "daily two-tower", "anew", "untouched")
FIGURE = "HR@100"
COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "prepare": prepare.run,
    "train": train.run,
    "evaluate": evaluate.run,
}


def write_world(folder: Path, days: int, rows: int, users: int, items: int, seed: int) -> None:
    """Write ``folder``/log/day=D and items.parquet; tastes turn a little every day."""
    rng = np.random.default_rng(seed)
    most_users, most_items = (int(n * GROWTH**days) + 1 for n in (users, items))
    centre = rng.normal(size=(CATEGORIES, DIM))
    category = rng.integers(0, CATEGORIES, most_items)
    item = _unit(_unit(centre)[category] + 0.25 * rng.normal(size=(most_items, DIM)))
    taste = _unit(rng.normal(size=(most_users, DIM)))
    popularity = rng.permutation(np.log(1 / np.arange(1, most_items + 1) ** 0.5))
    for day in range(days):
        taste = _unit(taste + DRIFT / np.sqrt(DIM) * rng.normal(size=taste.shape))
        here_users, here_items = (int(n * GROWTH**day) for n in (users, items))
        user = np.sort((rng.random(rows) ** 1.5 * here_users).astype(np.int64))
        score = SHARPNESS * taste[:here_users] @ item[:here_items].T + popularity[:here_items]
        chance = np.cumsum(np.exp(score - score.max(1, keepdims=True)), 1)
        draw = rng.random(rows) * chance[user, -1]
        chosen = [int(np.searchsorted(chance[u], x)) for u, x in zip(user, draw, strict=True)]
        moment = day * 86_400 + rng.permutation(rows) * 86_400 // rows
        part = folder / "log" / f"day={day}"
        part.mkdir(parents=True)
        columns = {"user_id": user, "item_id": np.array(chosen), "time": moment}
        pq.write_table(pa.table(columns), part / "part.parquet")
    catalogue = {"item_id": np.arange(most_items), "kind": category}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


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
    folder: Path, days: int, log: tuple[str, ...], flags: tuple[str, ...]
) -> dict[str, Any]:
    """Walk the days with each model; return the figures by arm and day, and the costs by arm."""
    found: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    names = [str(day) for day in range(FIRST, days)]
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
    for day in range(FIRST + 1, days):
        score = Day(folder / "modern", str(day)).score
        shutil.rmtree(anew, ignore_errors=True)
        made = ("prepare", "parquet", *log, "--to", f"{day - 1}", "--split", "none")
        _do(folder, cost, *made, "--out", f"{anew / 'data'}")
        _do(folder, cost, "train", "--data", f"{anew / 'data'}", "--out", f"{anew / 'run'}", *flags)
        first = folder / "modern" / str(FIRST) / "run"
        for arm, run in (("anew", anew / "run"), ("untouched", first)):
            asked_ = ("--run", f"{run}", "--data", f"{score}", "--no-fitted-baselines")
            _do(folder, cost, "evaluate", *asked_)
            metrics = json.loads((run / "metrics.json").read_text())
            found[arm].append(metrics["all"][FIGURE])
    costs["anew"] = cost.by_day()
    return {"hr100": found, "cpu_s": costs}


def _do(folder: Path, cost: Costs, name: str, *words: str) -> None:
    in_child(partial(cost.command(name), words), folder / "log.txt", name)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, by day and arm; CPU seconds of all days, and of the last one."""
    arms = [arm for arm in ARMS if arm in rows[0]["hr100"]]
    of = {arm: np.mean([row["hr100"][arm] for row in rows], axis=0) for arm in arms}
    lines = [f"{'day':>4}  " + "  ".join(f"{arm:>15}" for arm in arms)]
    for number in range(len(of[arms[0]])):
        cells = "  ".join(f"{of[arm][number]:>15.4f}" for arm in arms)
        lines.append(f"{FIRST + 1 + number:>4}  {cells}")
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
    parser.add_argument("--epochs", type=int, default=2, help="Of every training.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, help="File of JSON lines to add to.")
    parser.add_argument("--smoke", action="store_true", help="Show that the script runs.")
    given = parser.parse_args()
    days, rows, users, items = given.days, given.rows, given.users, given.items
    if given.smoke:
        days, rows, users, items = FIRST + 2, 600, 60, 150
    found = []
    for seed in range(given.seeds):
        folder = (given.work / f"daily-{seed}").absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_world(folder, days, rows, users, items, seed)
        tables = ("--interactions", f"{folder / 'log'}", "--items", f"{folder / 'items.parquet'}")
        flags = (
            *("--batch-size", "256", "--epochs", f"{given.epochs}", "--device", given.device),
            *("--seed", f"{seed}", "--optimizer.warmup-steps", "10"),
        )
        found.append(measure(folder, days, (*tables, "--category", "kind"), flags))
    print(table(found), file=sys.stderr)
    row = {
        "benchmark": "daily",
        "days": days,
        "rows": rows,
        "users": users,
        "items": items,
        "epochs": given.epochs,
        "seeds": found,
    }
    append(given.results, {**row, **circumstances()})


if __name__ == "__main__":
    main()
