"""Do training, its checkpoints and an export keep to the memory that docs/memory.md states?

    python -m benchmarks.memory --work FOLDER [--rows 8000000]

Trains a planted world whose user table has that many rows, with checkpoints beside training, and
exports it: each in a process of its own, whose peak stands over what the formula gives. The result
is a JSON line for each.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import enlarge
from benchmarks.options import Options, parse
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.synthetic import Synthetic

DIM = 32
"""Numbers in a row of each table: those of the default model."""
SHUFFLE_MB = 16
"""``--examples.shuffle-mb``: the world is small, and its examples are not the question."""
PEAK = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
"""The process's own peak, in KiB: in ru_maxrss that of the process which started it counts too."""
IMPORTS = f"import {{}}; {PEAK}"
COMMAND = f"from dat_rec.cli import main; main(); {PEAK}"


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Peak memory of train, checkpoint and export, over what is stated."""

    work: Path
    """Folder for the dataset, the run and the export; it is made and removed."""
    rows: int = 8_000_000
    """Rows of the user's two tables, of 32 float32 numbers each; 8 million make 2 GB."""


def main() -> None:
    """Measure, and print a JSON line for each command."""
    arguments = parse(Arguments)
    rows = 50_000 if arguments.smoke else arguments.rows
    arguments.work.mkdir(parents=True)
    try:
        for row in measure(arguments.work, rows):
            arguments.report("memory", row)
    finally:
        shutil.rmtree(arguments.work)


def measure(work: Path, rows: int) -> list[dict[str, Any]]:
    """Train and export; what each took."""
    data, run = work / "data", work / "run"
    prepare(Synthetic(out=data, users=500, items=300, interactions=20_000))
    enlarge(data, rows)
    features = Schema.load(data).features
    by_table = {feature.table: feature.rows for feature in features}
    # The augmented vectors of users and items have tables of their own.
    wide = sum(by_table.values()) + by_table["user"] + by_table["item"]
    tables_mb, sums_mb = wide * DIM * 4 / 2**20, wide * 4 / 2**20
    train = ["train", "--data", str(data), "--out", str(run), "--batch-size", "512"]
    train += ["--epochs", "1", "--checkpoint-every", "12", "--device", "cpu"]
    train += ["--examples.shuffle-mb", str(SHUFFLE_MB)]
    export = ["export", "--run", str(run), "--out", str(work / "export")]
    found = []
    for command, module, copies, state_mb in (
        (train, "dat_rec.training.train", 2, sums_mb),
        (export, "dat_rec.retrieval.export", 1, 0.0),
    ):
        imports_mb, _ = _python("-c", IMPORTS.format(module))
        peak_mb, cpu_s = _python("-c", COMMAND, *command)
        stated_mb = imports_mb + copies * (tables_mb + state_mb)
        found.append(
            {
                "measured": command[0],
                "rows": rows,
                "tables_mb": tables_mb,
                "optimizer_mb": sums_mb,
                "imports_mb": imports_mb,
                "peak_mb": peak_mb,
                "over_stated": peak_mb / stated_mb,
                "over_tables": peak_mb / tables_mb,
                "beyond_imports_over_tables": (peak_mb - imports_mb) / tables_mb,
                "cpu_s": cpu_s,
            }
        )
    return found


def _python(*arguments: str) -> tuple[float, float]:
    """The peak in MiB that a Python process prints in KiB as its last line, and its CPU seconds."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return float(text.split()[-1]) / 1024, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
