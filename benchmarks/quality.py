"""How good are the recommendations, by preset and part, over several seeds?

    python -m benchmarks.quality --data DIR --work FOLDER [--seeds 0 1 2]

Trains and evaluates each set-up with each seed through the command line, as a user would.
Every run is a JSON line; the table at the end (mean ± standard deviation over seeds) is
what benchmarks/README.md quotes. Runs that stand in the results file are not repeated.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm import tqdm

from benchmarks.options import RESULTS, Options, parse
from benchmarks.record import append, circumstances, read
from dat_rec.files import read_json

NO_MIMIC = ("--loss.mimic-user", "0", "--loss.mimic-item", "0")
NO_ALIGNMENT = ("--loss.alignment", "0")
SETUPS: dict[str, tuple[str, ...]] = {
    "paper": ("--preset", "paper"),
    "two-tower": ("--preset", "two-tower"),
    "two-tower + augmented vectors": (*NO_MIMIC, *NO_ALIGNMENT),
    "+ mimic": NO_ALIGNMENT,
    "+ alignment": NO_MIMIC,
    "modern (both)": (),
}
FIGURES = ("HR@50", "HR@100", "MRR")


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Quality of each set-up over seeds."""

    data: Path
    """A prepared dataset."""
    work: Path
    """Folder for the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""
    setups: tuple[str, ...] = tuple(SETUPS)
    """Which set-ups, by name."""
    flags: tuple[str, ...] = ()
    """More options of `dat-rec train`, for all runs, as one quoted word each."""


def run(arguments: Arguments, setup: str, seed: int, more: tuple[str, ...]) -> dict[str, Any]:
    """Train and evaluate one set-up with one seed."""
    folder = arguments.work / f"{setup.replace(' ', '_')}-{seed}"
    program = [sys.executable, "-m", "dat_rec"]
    train = ["train", "--data", str(arguments.data), "--out", str(folder), "--overwrite"]
    flags = [*SETUPS[setup], *more, "--seed", str(seed), "--device", arguments.device]
    for command in ([*train, *flags], ["evaluate", "--run", str(folder)]):
        subprocess.run([*program, *command], check=True, capture_output=True)
    metrics = read_json(folder / "metrics.json", "the metrics")
    trained = read_json(folder / "train.json", "the training's summary")
    return {
        "benchmark": "quality",
        "setup": setup,
        "flags": list(more),
        "seed": seed,
        "dataset": metrics["dataset"],
        **{block: metrics[block] for block in ("all", "new_pairs", "warm", "cold")},
        "seconds": trained["seconds"],
        "samples_per_s": trained["samples_per_s"],
        "data_wait_share": trained["data_wait_share"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, a Markdown row for each set-up."""
    head = " | ".join(f"{block} {figure}" for block in ("all", "new") for figure in FIGURES)
    lines = [f"| set-up | seeds | {head} |", "|---" * 8 + "|"]
    for setup in dict.fromkeys(row["setup"] for row in rows):
        mine = [row for row in rows if row["setup"] == setup]
        cells = [
            spread([row[block][figure] for row in mine])
            for block in ("all", "new_pairs")
            for figure in FIGURES
        ]
        lines.append(f"| {setup} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """``mean ± standard deviation``, without a leading zero."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.4f} ± {deviation:.4f}".replace("0.", ".")


def main() -> None:
    """Run what is missing and print the table."""
    arguments = parse(Arguments)
    setups, seeds, more = arguments.setups, arguments.seeds, arguments.flags
    out = arguments.out or RESULTS / "quality.jsonl"
    if arguments.smoke:
        setups, seeds, out = ("paper", "modern (both)"), (0,), arguments.work / "smoke.jsonl"
        more = ("--epochs", "1", "--batch-size", "256")
    rows = read(out) if out.exists() else []
    wanted = [(setup, seed) for seed in seeds for setup in setups]
    done = {(row["setup"], row["seed"], row["dataset"], tuple(row["flags"])) for row in rows}
    dataset = read_json(arguments.data / "schema.json", "the schema")["source"]
    for setup, seed in tqdm(wanted, desc="runs"):
        if (setup, seed, dataset, tuple(more)) not in done:
            row = run(arguments, setup, seed, tuple(more)) | circumstances()
            append(out, row)
            rows.append(row)
    mine = [r for r in rows if r["dataset"] == dataset and (r["setup"], r["seed"]) in wanted]
    print(table([row for row in mine if row["flags"] == list(more)]))


if __name__ == "__main__":
    main()
