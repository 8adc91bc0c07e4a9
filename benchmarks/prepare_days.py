"""What ``prepare --after`` costs by day, and whether it follows the new day or the past.

    python -m benchmarks.prepare_days --work FOLDER --rows 1000000 --days 13

Each day has as many interactions, and 3 % more users and items than the one before. A line tells
each day's CPU seconds, of all threads and of the system for it, and the peak of its memory; the
last one compares the last day with the third.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import append, circumstances

GROWTH = 1.03
ROWS_OF_A_USER, ROWS_OF_AN_ITEM = 5, 100
"""Interactions of the first day for each user and item of it."""
COMPARED = 3
"""The day that the last one is compared with."""


def write_day(folder: Path, day: int, rows: int) -> None:
    """Write a day's interactions, and the catalogue as of it."""
    rng = np.random.default_rng(day)
    users, items = (
        max(10, int(rows / of * GROWTH**day)) for of in (ROWS_OF_A_USER, ROWS_OF_AN_ITEM)
    )
    columns = {
        "user_id": (rng.random(rows) ** 1.5 * users).astype(np.int64),
        "item_id": (rng.random(rows) ** 2 * items).astype(np.int64),
        "time": np.sort(rng.integers(day * 86_400, (day + 1) * 86_400, rows)),
    }
    log = folder / "log" / f"day={day}"
    log.mkdir(parents=True)
    pq.write_table(pa.table(columns), log / "part.parquet")
    item = np.arange(items)
    catalogue = {"item_id": item, "kind": item % 50, "price": item * 7919 % 1000 / 10}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")


def measure(folder: Path, day: int, memory_limit: str) -> dict[str, Any]:
    """Prepare a day after the one before; return what it took."""
    out, before = folder / f"data-{day}", folder / f"data-{day - 1}"
    command = [sys.executable, "-m", "dat_rec", "prepare", "parquet", "--split", "none"]
    command += ["--interactions", f"{folder / 'log'}", "--items", f"{folder / 'items.parquet'}"]
    command += ["--category", "kind", "--item-features", "price", "--out", f"{out}"]
    command += [f"--from={day}", f"--to={day}", f"--memory-limit={memory_limit}"]
    command += ["--after", f"{before}"] if before.exists() else []
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit(1)
    size = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    schema = json.loads((out / "schema.json").read_text())
    shutil.rmtree(before, ignore_errors=True)
    return {
        "day": day,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "dataset_mb": size / 2**20,
        **{name: schema[name] for name in ("users", "items", "examples")},
        "past": schema.get("past", 0),
    }


def main() -> None:
    """Measure each day, and write a JSON line for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder for the datasets.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="Interactions of each day.")
    parser.add_argument("--days", type=int, default=13)
    parser.add_argument("--memory-limit", default="1GB", help="As of prepare.")
    parser.add_argument("--results", type=Path, help="File of JSON lines to add to.")
    parser.add_argument("--smoke", action="store_true", help="Show that the script runs.")
    arguments = parser.parse_args()
    rows, days = (2_000, 4) if arguments.smoke else (arguments.rows, arguments.days)
    folder = arguments.work / "days"
    shutil.rmtree(folder, ignore_errors=True)
    found = []
    for day in range(1, days + 1):
        write_day(folder, day, rows)
        found.append(measure(folder, day, arguments.memory_limit))
        print(json.dumps(found[-1]), file=sys.stderr)
    early, late = found[COMPARED - 1], found[-1]
    times = {f"{name}_times": late[name] / early[name] for name in ("cpu_s", "peak_mb")}
    row = {"benchmark": "prepare_days", "rows": rows, **times, "days": found}
    append(arguments.results, {**row, **circumstances()})


if __name__ == "__main__":
    main()
