"""Everything that needs a GPU, in ten minutes, the most important first.

    make gpu                                          # in .venv
    python -m benchmarks.gpu --out results [--minutes 10]   # in any environment that has the stack

Tests on the GPU (training there is training on a CPU), a step beside plain PyTorch, the paper's
size in full, a run that is stopped and goes on, host memory behind a cache. Each part is a
process of its own with a limit of its own, so that one which hangs or fails leaves the others; of
what is left of the time each may take its share at most. ``summary.json`` has a line for each part:
its exit code, seconds, and the end of what it printed where it failed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.options import Options, parse
from benchmarks.record import circumstances
from dat_rec.files import write_json

LAST_LINES = 40
"""Of a failed part's output, that summary.json holds."""


@dataclass(frozen=True)
class Part:
    """Something to run."""

    name: str
    words: tuple[str, ...]
    """Of the command, behind ``python -m``."""
    seconds: int
    """Limit, with ten minutes for all."""
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a part."""

    name: str
    command: str
    returncode: int | None
    """None: it was ended at its limit, or had no time left."""
    seconds: float
    output: str
    """The last lines where it failed."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """All that needs a GPU."""

    out: Path = Path("benchmarks/results/gpu")  # type: ignore[assignment]
    """Folder for a file of each part, and summary.json."""
    minutes: float = 10.0
    """Time for all."""


def parts(out: Path, device: str, *, smoke: bool) -> list[Part]:
    """All parts, the most important first.

    Args:
        out: folder of the results.
        device: that is measured; tests that are marked ``gpu`` choose their own.
        smoke: small ones.
    """
    own = ("dat", "bfloat16", "two_tower")
    kinds = ("--kinds", *own, "plain", *(("fused",) if device == "cuda" else ()))

    def measured(name: str, seconds: int, *words: str, to: str = "") -> Part:
        flags = ("--smoke",) if smoke else words
        file = str(out / f"{to or name}.jsonl")
        return Part(
            to or name, (f"benchmarks.{name}", "--device", device, "--out", file, *flags), seconds
        )

    no_cache = ("-p", "no:cacheprovider", "-q")
    survives = "tests/end_to_end/test_survival.py"
    training = ("DAT_REC_TEST_DEVICE", device)
    return [
        Part("tests", ("pytest", *no_cache, "-m", "gpu", "tests"), 150),
        measured("train_step", 60, "--shape", "modern", *kinds, to="step_modern"),
        measured("train_step", 60, "--shape", "tables", *kinds, to="step_tables"),
        measured("train_step", 120, "--shape", "meituan", "--kinds", *own, to="step_meituan"),
        Part("resume", ("pytest", *no_cache, "-k", "sigterm_alone", survives), 90, (training,)),
        measured("uvm", 90),
        measured("train_step", 60, "--shape", "small", *kinds, to="step_small"),
    ]


def run(part: Part, limit: float) -> Outcome:
    """Run a part in a process group of its own, which ends with it."""
    begin = time.monotonic()
    command = [sys.executable, "-m", *part.words]
    written = " ".join(["python", "-m", *part.words])
    if limit <= 0:
        return Outcome(part.name, written, None, 0.0, "no time was left")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | dict(part.environment),
    )
    try:
        output, _ = process.communicate(timeout=limit)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = None
    last = "" if code == 0 else "\n".join(output.splitlines()[-LAST_LINES:])
    return Outcome(part.name, written, code, time.monotonic() - begin, last)


def run_all(every: Sequence[Part], seconds: float, out: Path) -> list[Outcome]:
    """Run the parts in turn; summary.json is written after each."""
    end = time.monotonic() + seconds
    share = seconds / sum(part.seconds for part in every)
    found = []
    for number, part in enumerate(every):
        left = end - time.monotonic()
        # What earlier parts did not take goes to all that follow.
        share = max(share, left / sum(one.seconds for one in every[number:]))
        found.append(run(part, min(left, share * part.seconds)))
        print(f"{part.name}: {found[-1].returncode} after {found[-1].seconds:.0f} s", flush=True)
        summary = {"parts": [asdict(one) for one in found]} | circumstances()
        write_json(out / "summary.json", summary)
    return found


def main() -> None:
    """Run all; exit code 1 where a part failed."""
    arguments = parse(Arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    every = parts(arguments.out, arguments.device, smoke=arguments.smoke)
    found = run_all(every, 60 * arguments.minutes, arguments.out)
    sys.exit(any(one.returncode != 0 for one in found))


if __name__ == "__main__":
    main()
