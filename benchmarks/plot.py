"""Every picture of the results.

    python -m benchmarks.plot [--only scaling sweep]

For each module of ``benchmarks.pictures``: the lines of results/<module>.jsonl in, a PNG out.
"""

import importlib
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import tyro

from benchmarks import pictures
from benchmarks.record import read

DPI = 90


@dataclass(frozen=True)
class Arguments:
    """Draw the results."""

    only: tuple[str, ...] = ()
    """Pictures to draw; all without it."""
    results: Path = Path("benchmarks/results")
    """Folder of the JSON lines."""
    out: Path = Path("benchmarks/pictures")
    """Folder for the PNGs."""


def main() -> None:
    """Draw each picture whose results are there."""
    arguments = tyro.cli(Arguments)
    names = [module.name for module in pkgutil.iter_modules(pictures.__path__)]
    if unknown := set(arguments.only) - set(names):
        sys.exit(f"--only {' '.join(sorted(unknown))}: there are {', '.join(names)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or names:
        results = arguments.results / f"{name}.jsonl"
        if not results.exists():
            print(f"{name}: not drawn: there is no {results}", file=sys.stderr)
            continue
        draw = importlib.import_module(f"benchmarks.pictures.{name}").draw
        path = arguments.out / f"{name}.png"
        with mpl.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
            draw(read(results)).savefig(path, dpi=DPI)
        print(path)


if __name__ == "__main__":
    main()
