"""How many rows a second ``dat-rec prepare`` makes a dataset of, in how much memory, by stage.

    python -m benchmarks.prepare --work FOLDER --interactions 1000000 20000000

The world is a planted one with an item for every 500 interactions and a user for every 12.5: 8
million users and 200,000 items of 100 million. CPU seconds are those of all threads, and travel
better than the clock from a machine that others use. ``peak_mb`` is the system's own figure
(VmHWM), mapped files included, which the system takes back where it needs room; ``own_peak_mb``,
what the process itself held, is sampled. ``disk_mb`` is the most that the unfinished folder took.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.record import append, circumstances
from dat_rec.data.prepare.journal import NAME

ROWS_OF_A_USER, ROWS_OF_AN_ITEM = 12.5, 500
SAMPLE_S = 0.2
DISK_EVERY = 25
"""Samples between two looks at the disk."""
TICKS = os.sysconf("SC_CLK_TCK")


def measure(work: Path, interactions: int, more: list[str]) -> dict[str, Any]:
    """Prepare a world of so many interactions, and tell what each stage took."""
    out = work / "data"
    shutil.rmtree(out, ignore_errors=True)
    sizes = {
        "users": max(1, int(interactions / ROWS_OF_A_USER)),
        "items": max(2, int(interactions / ROWS_OF_AN_ITEM)),
        "interactions": interactions,
    }
    command = [sys.executable, "-m", "dat_rec", "prepare", "synthetic", "--out", str(out)]
    command += [f"--{name}={value}" for name, value in sizes.items()] + more
    stages: list[dict[str, Any]] = []
    peak = {"peak_mb": 0.0, "own_peak_mb": 0.0, "disk_mb": 0.0}
    begin = last = time.monotonic()
    cpu = last_cpu = own = 0.0
    samples = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(SAMPLE_S)
            with suppress(OSError, KeyError, ValueError):
                memory, cpu = _status(process.pid)
                own = max(own, memory["RssAnon"])
                peak["peak_mb"] = max(peak["peak_mb"], memory["VmHWM"])
                peak["own_peak_mb"] = max(peak["own_peak_mb"], own)
            partial = out.with_name("data.partial")
            if samples % DISK_EVERY == 0:
                peak["disk_mb"] = max(peak["disk_mb"], _size_mb(partial))
            samples += 1
            done = _stages(partial / "work" / NAME)
            if len(done) > len(stages):
                now = time.monotonic()
                stages.append(_stage(done[-1], now - last, cpu - last_cpu, own, interactions))
                last, last_cpu, own = now, cpu, 0.0
        if process.returncode:
            sys.exit(process.returncode)
    whole = time.monotonic() - begin
    # The journal goes soon after the last stage is written down.
    last_name = "publish" if any(s["stage"] == "examples" for s in stages) else "examples"
    stages.append(_stage(last_name, time.monotonic() - last, cpu - last_cpu, own, interactions))
    return {
        "benchmark": "prepare",
        **sizes,
        "wall_s": whole,
        "cpu_s": cpu,
        "rows_per_s": interactions / whole,
        "cpu_us_per_row": cpu / interactions * 1e6,
        **peak,
        "dataset_mb": _size_mb(out),
        "stages": stages,
    }


def _stage(name: str, wall: float, cpu: float, own: float, rows: int) -> dict[str, Any]:
    rate = {"wall_s": wall, "cpu_s": cpu, "cpu_us_per_row": cpu / rows * 1e6}
    return {"stage": name, **rate, "rows_per_s": rows / wall, "own_peak_mb": own}


def _status(pid: int) -> tuple[dict[str, float], float]:
    """Memory in MiB, and CPU seconds so far, of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    memory = {name: int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "RssAnon")}
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return memory, (int(stat[11]) + int(stat[12])) / TICKS


def _size_mb(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total / 2**20


def _stages(journal: Path) -> list[str]:
    with suppress(OSError, ValueError):
        return list(json.loads(journal.read_text())["stages"])
    return []


def main() -> None:
    """Measure each size, and write a JSON line for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder for the datasets.")
    parser.add_argument("--interactions", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--results", type=Path, help="File of JSON lines to add to.")
    parser.add_argument("--smoke", action="store_true", help="Show that the script runs.")
    parser.add_argument("more", nargs="*", help="Options of prepare, behind --.")
    arguments = parser.parse_args()
    for interactions in [20_000] if arguments.smoke else arguments.interactions:
        row = measure(arguments.work, interactions, arguments.more)
        append(arguments.results, {**row, **circumstances()})


if __name__ == "__main__":
    main()
