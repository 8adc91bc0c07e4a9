"""Walk at random over datasets, options and 1 to 3 ranks, and judge all that comes of it.

    python -m tests.fuzz --cases 100

Each case is prepared, trained, evaluated, exported and recommended from, as a user does it, and
must show: exit codes 0 or 2, the latter with a line that says why, never a traceback; nothing
half-written; metrics and lists as brute force has them; an export that equals its model; the
losses of one rank on any number; and, cut back to its first checkpoint and resumed, the same bits
(on another number of ranks, the same losses).
A case is decided by its seed and number alone: ``--first N --cases 1`` walks it again.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from tests.fuzz.draw import draw
from tests.fuzz.walk import FaultError, RefusedError, Walk


@dataclass(frozen=True)
class Arguments:
    """Walk at random over datasets, options and ranks; exit with 1 if a case shows a fault."""

    cases: int = 100
    """How many cases."""
    first: int = 0
    """Number of the first."""
    seed: int = 0
    """Decides all cases."""
    work: Path | None = None
    """Where cases are made; a temporary folder without it. Failing ones stay."""


@contextmanager
def _work(folder: Path | None) -> Iterator[Path]:
    """A folder for the cases; a temporary one stays where it holds failing cases."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    made = Path(tempfile.mkdtemp(prefix="dat_rec-fuzz-"))
    yield made
    if not any(made.iterdir()):
        made.rmdir()


def main() -> None:
    """Walk all cases, print each fault, what was refused, and a summary as JSON."""
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    refused: Counter[str] = Counter()
    faults = 0
    begin = time.perf_counter()
    with _work(arguments.work) as work:
        numbers = range(arguments.first, arguments.first + arguments.cases)
        for number in tqdm(numbers, desc="fuzz", unit="case"):
            folder = work / f"case-{number:04d}"
            case = draw(arguments.seed, number, folder)
            try:
                Walk(case, folder).walk()
            except RefusedError as refusal:
                refused[str(refusal).replace(str(folder), "CASE")] += 1
            # What a judge stumbles over, such as an export that cannot be run, is a fault too.
            except Exception as fault:
                faults += 1
                kind = "" if isinstance(fault, FaultError) else f"{type(fault).__name__}: "
                tqdm.write(f"case {number} (in {folder}): {kind}{fault}\n    {case.text()}")
                continue
            shutil.rmtree(folder)
    for line, count in refused.most_common():
        print(f"refused, {count} ×: {line}")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    summary = {
        "name": "fuzz",
        "cases": arguments.cases,
        "first": arguments.first,
        "seed": arguments.seed,
        "faults": faults,
        "refused": refused.total(),
        "seconds": round(time.perf_counter() - begin),
        "commit": commit.stdout.strip(),
    }
    print(json.dumps(summary))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
