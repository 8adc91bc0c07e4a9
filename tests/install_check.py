"""Does a wheel install into a fresh environment, and go from prepare to recommend?

    python -m tests.install_check                                     # as README says it
    python -m tests.install_check --python python3.13 --torch 2.14.1

Nothing of the checkout is used but the wheel that is built of it: the commands run in another
folder. On a machine with an NVIDIA GPU plain pip installs, elsewhere the one line for the CPU.
Standard library only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dat_rec.install import CHECKOUT, nvidia_gpu_present
from dat_rec.versions import PAIRS

SIZES = "--users 500 --items 300 --interactions 20000"
COMMANDS = (
    "dat-rec --version",
    "dat-rec doctor",
    f"dat-rec prepare synthetic --out world/data {SIZES}",
    "dat-rec train --data world/data --out world/run --epochs 1 --batch-size 512",
    "dat-rec evaluate --run world/run",
    "dat-rec export --run world/run --out world/export",
    "dat-rec recommend --export world/export --k 10 --out world/recs.parquet --show 2",
)
COUNT = "import pyarrow.parquet as p; print(p.read_metadata('world/recs.parquet').num_rows)"


def sources(folder: Path) -> None:
    """Copy what a wheel is built of: in the checkout itself setuptools would use an old build/."""
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    for name in ("dat_rec", "launch"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, folder / name, ignore=ignored)


def main() -> int:
    """The command line; 0 if every command did what it should."""
    parser = argparse.ArgumentParser("python -m tests.install_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--python", default=sys.executable, help="makes the environment")
    parser.add_argument("--torch", choices=list(PAIRS), help="another set than the default")
    parser.add_argument("--work", type=Path, help="where it stands; a temporary folder without it")
    chosen = parser.parse_args()
    plain = chosen.torch is None and nvidia_gpu_present()
    more = f" --torch {chosen.torch}" if chosen.torch else ""
    with tempfile.TemporaryDirectory(prefix="dat_rec-install-", dir=chosen.work) as work:
        subprocess.run([chosen.python, "-m", "venv", Path(work, "env")], check=True)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        clean |= {"PATH": f"{work}/env/bin:{clean['PATH']}", "OMP_NUM_THREADS": "1"}
        Path(work, "sources").mkdir()
        sources(Path(work, "sources"))
        wheel = "pip wheel --quiet --no-deps --wheel-dir . ./sources && rm -r sources"
        install = (
            "pip install --quiet dat_rec-*.whl"
            if plain
            else f"pip install --quiet --no-deps dat_rec-*.whl && python -m dat_rec.install{more}"
        )
        for command in (wheel, install, *COMMANDS):
            start = time.monotonic()
            print(f"$ {command}", flush=True)
            done = subprocess.run(["bash", "-c", command], cwd=work, env=clean, check=False)
            print(f"  exit code {done.returncode}, {time.monotonic() - start:.0f} s", flush=True)
            if done.returncode:
                return 1
        here = Path(work, "env", "bin", "python")
        rows = subprocess.run([here, "-c", COUNT], cwd=work, capture_output=True, text=True)
    if rows.stdout.strip() != "5000":
        print(f"recommendations: {rows.stdout}{rows.stderr}, not 10 for each of 500 users")
        return 1
    print("a fresh environment goes from prepare to recommend")
    return 0


if __name__ == "__main__":
    sys.exit(main())
