"""Do the core tests pass with every set of releases that dat_rec/versions.py names?

    python -m tests.pairs                                    # all, on the Python that runs this
    python -m tests.pairs --torch 2.11.0 --python python3.12

Each set is installed as `make` installs it, into an environment of its own, which is removed
before the next one's (6 GB where torch is a CUDA build). The last one is the default set with the
least releases that setup.cfg admits. Standard library only.
"""

import argparse
import configparser
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dat_rec.install import CHECKOUT, CONSTRAINTS, DEVELOPERS, nvidia_gpu_present
from dat_rec.versions import DEFAULT, PAIRS

CORE = (
    *("tests/test_versions.py", "tests/test_install.py", "tests/model", "tests/dist"),
    *("tests/preflight", "tests/sharding", "tests/planner", "tests/checkpoint", "tests/runs"),
    *("tests/training", "tests/retrieval", "tests/distributed"),
)
LEAST = "least"
"""Beside releases of torch: the default one, with the least releases of all else."""


def least_releases() -> str:
    """The usual constraints, but what stands in setup.cfg itself at its least release."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", "utf-8")
    lines = config["options"]["install_requires"].splitlines()
    least = [line.replace(">=", "==") for line in lines if ">=" in line]
    names = {line.partition("==")[0] for line in least}
    usual = CONSTRAINTS.read_text("utf-8").splitlines()
    return "\n".join([*least, *(line for line in usual if line.partition("==")[0] not in names)])


def tried(name: str, python: str, folder: Path, tests: list[str]) -> Iterator[str]:
    """Install a set into ``folder`` and run the tests with it; gives what came of each."""
    torch = DEFAULT["cuda" if nvidia_gpu_present() else "cpu"] if name == LEAST else name
    more = []
    if name == LEAST:
        constraints = folder.with_suffix(".txt")
        constraints.write_text(least_releases(), "utf-8")
        more = ["--constraints", str(constraints)]
    here = folder / "bin" / "python"
    subprocess.run([python, "-m", "venv", folder], check=True)
    install = ["-m", "dat_rec.install", "--torch", torch, "--extras", DEVELOPERS, "--editable"]
    subprocess.run([here, *install, *more], cwd=CHECKOUT, check=True)
    yield subprocess.run([here, "-m", "dat_rec", "--version"], **READ).stdout.strip()
    flags = ["-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run([here, "-m", "pytest", *flags], check=False, **READ)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
    *_, last = done.stdout.splitlines() or ["no tests ran"]
    yield re.sub(r"^=+ | =+$", "", last)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, "pytest")


READ = {
    "cwd": CHECKOUT,
    "env": os.environ | {"OMP_NUM_THREADS": "1"},
    "capture_output": True,
    "text": True,
}


def main() -> int:
    """The command line; 0 if all that was tried passed, else 1."""
    parser = argparse.ArgumentParser("python -m tests.pairs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--torch", nargs="+", default=[*PAIRS, LEAST], choices=[*PAIRS, LEAST])
    parser.add_argument("--python", default=sys.executable, help="makes the environments")
    parser.add_argument("--work", type=Path, help="where they stand; a temporary folder without it")
    parser.add_argument("tests", nargs="*", help="instead of the core tests; pytest's options")
    chosen = parser.parse_args()
    failed = 0
    for name in chosen.torch:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="dat_rec-pairs-", dir=chosen.work) as work:
            said = []
            try:
                for line in tried(name, chosen.python, Path(work, name), chosen.tests or [*CORE]):
                    said.append(line)
            except subprocess.CalledProcessError as error:
                failed += 1
                said.append(f"FAILED: {error}")
        print(f"{name}: {'; '.join(said)} ({time.monotonic() - start:.0f} s in all)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
