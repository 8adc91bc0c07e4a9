"""How near to the best possible do the defaults come, on five kinds of logs?

    python -m benchmarks.worlds --work FOLDER [--shapes dense sparse ids repeats skewed] [--seeds 0]

Plants a world of each shape (``dat-rec prepare synthetic --shape``), trains with the defaults and
``--flags``, and evaluates, with ItemCF and iALS tuned: each through the command of its name, in
this process. Every run is a JSON line, and a row of the table at the end:

- ``oracle``: the best HR@100 for whoever knows each user's taste, ``Bayes``: for whoever knows the
  world but infers the taste from the user's training interactions, which no model can beat either
  (``dat_rec/data/sources/best_rankings.py``). Of all pairs, as the others are.
- ``ours``, and ``+ history`` with the user's own history blended in (``evaluate --blend-history``),
  where the log has times; ``ratio``: of either over Bayes. The goal is .9.
- ``lead``: ours over the better of ItemCF and iALS, which is to be above 1; ``new``: HR@100 of new
  pairs alone, ours and the better of the two's.

With --validation-share what is held out at the end of the training span is judged in place of the
test, by the last validation of training: for the choice of settings. It has no oracle, and no
baselines.
"""

import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.options import Options, parse
from dat_rec.cli import run_command
from dat_rec.data.dataset import Dataset
from dat_rec.data.sources.world_shapes import SHAPES, ShapeName
from dat_rec.files import read_json
from dat_rec.runs.validations import read_validations

FIVE: tuple[ShapeName, ...] = ("dense", "sparse", "ids", "repeats", "skewed")
FITTED = ("ItemCF", "iALS")
FIGURE = "HR@100"
SMOKE_WORLD = ("--users=200", "--items=250", "--interactions=3000", "--tastes=10")
SMOKE_FLAGS = ("--epochs", "1", "--batch-size", "512")
NEVER = 1_000_000_000
"""Steps between validations of which the last one alone is wanted."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """The defaults beside the best possible, on planted worlds of several shapes."""

    work: Path
    """Folder for the datasets and runs; those that are there are replaced."""
    shapes: tuple[ShapeName, ...] = FIVE
    """Shapes of the worlds."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds of training; the worlds stay the same."""
    world_seed: int = 0
    """Random seed of the worlds."""
    flags: str = ""
    """More options of `dat-rec train`, for all runs, e.g. --flags='--epochs 8'."""
    validation_share: float | None = None
    """Judge a validation span of this share, in place of the test."""


def main() -> None:
    """Measure each shape with each seed, and print the table."""
    arguments = parse(Arguments)
    shapes = ("ids", "repeats") if arguments.smoke else arguments.shapes
    rows = []
    for shape in shapes:
        data = prepare(arguments, shape)
        for seed in arguments.seeds:
            row = measure(arguments, shape, data, seed)
            arguments.report("worlds", row)
            rows.append(row)
    if arguments.validation_share is None:
        print(table(rows))


def prepare(arguments: Arguments, shape: ShapeName) -> Path:
    """Plant the world; return its dataset."""
    data = arguments.work / f"{shape}-data"
    options = [f"--shape={shape}", f"--world-seed={arguments.world_seed}", "--overwrite"]
    if arguments.validation_share is not None:
        options.append(f"--validation-share={arguments.validation_share}")
    if arguments.smoke:
        options += SMOKE_WORLD
    _run("prepare", "synthetic", f"--out={data}", *options)
    return data


def measure(arguments: Arguments, shape: ShapeName, data: Path, seed: int) -> dict[str, Any]:
    """Train on the world with one seed, and judge what comes of it."""
    run = arguments.work / f"{shape}-run-{seed}"
    flags = [*shlex.split(arguments.flags), *(SMOKE_FLAGS if arguments.smoke else ())]
    validates = arguments.validation_share is not None
    if validates:
        flags += [f"--validate-every={NEVER}", "--validation-queries=0"]
    common = (f"--data={data}", f"--out={run}", f"--seed={seed}", f"--device={arguments.device}")
    _run("train", *common, "--overwrite", *flags)
    trained = read_json(run / "train.json", "the training's summary")
    row = {
        "shape": shape,
        "world_seed": arguments.world_seed,
        "seed": seed,
        "flags": flags,
        "seconds": trained["seconds"],
    }
    if validates:
        found = read_validations(run)[-1]
        return {**row, "validation": {block: found[block] for block in ("all", "new_pairs")}}
    blend = () if SHAPES[shape].ids_only else ("--blend-history",)
    _run("evaluate", f"--run={run}", *blend)
    metrics = read_json(run / "metrics.json", "the metrics")
    return {**row, **judged(Dataset.open(data).schema.facts or {}, metrics)}


def judged(facts: dict[str, float], metrics: dict[str, Any]) -> dict[str, Any]:
    """A run's figures beside the oracles' and the baselines'."""
    baselines = metrics["baselines"]
    blocks = ("all", "new_pairs")
    ours, bayes = metrics["all"][FIGURE], facts[f"Bayes {FIGURE}"]
    blend = metrics.get("blend")
    return {
        "best": {name: facts[f"best {name}"] for name in ("HR@50", FIGURE)},
        "bayes": {name: facts[f"Bayes {name}"] for name in ("HR@50", FIGURE)},
        **{block: metrics[block] for block in blocks},
        "baselines": {
            name: {block: found[block] for block in blocks} for name, found in baselines.items()
        },
        "blend": None if blend is None else {name: blend[name] for name in ("settings", *blocks)},
        "ratio": ours / bayes,
        "blend_ratio": None if blend is None else blend["all"][FIGURE] / bayes,
        "lead": ours / max(baselines[name]["all"][FIGURE] for name in FITTED),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown row for each run."""
    names = ["oracle", "Bayes", "ours", "+ history", *FITTED, "ratio", "ratio + history", "lead"]
    names += ["new: ours", "new: ItemCF, iALS"]
    lines = [f"| shape | seed | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        fitted = [row["baselines"][name] for name in FITTED]
        values = [
            row["best"][FIGURE],
            row["bayes"][FIGURE],
            row["all"][FIGURE],
            None if row["blend"] is None else row["blend"]["all"][FIGURE],
            *(found["all"][FIGURE] for found in fitted),
            row["ratio"],
            row["blend_ratio"],
            row["lead"],
            row["new_pairs"][FIGURE],
            max(found["new_pairs"][FIGURE] for found in fitted),
        ]
        cells = ("–" if value is None else f"{value:.4f}".removeprefix("0") for value in values)
        lines.append(f"| {row['shape']} | {row['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(command: str, *arguments: str) -> None:
    """Run a command of ``dat-rec`` in this process; what it prints goes to stderr."""
    with redirect_stdout(sys.stderr):
        run_command(command, arguments)


if __name__ == "__main__":
    main()
