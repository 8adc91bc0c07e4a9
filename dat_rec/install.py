"""Comes in: a bare Python. Goes out: an environment whose torch, torchrec and FBGEMM fit.

Where an NVIDIA GPU is, pip needs no help: ``pip install .`` brings the newest set of versions.py.
TorchRec asks for ``fbgemm-gpu``, the CUDA build, everywhere, and pip lays it over
``fbgemm-gpu-cpu`` and so breaks both. The order that works for every set and device: torch, then
torchrec, FBGEMM and dat_rec without their dependencies, then what they ask for besides, in the
releases of constraints.txt.

``python -m dat_rec.install`` fills the environment it runs in; with ``--venv FOLDER`` it
keeps a virtual environment there, as ``make`` does. Standard library only.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from dat_rec.versions import DEFAULT, FBGEMM, PAIRS, STACK, pair_of, version_of

PYTHONS = ((3, 11), (3, 12), (3, 13))
CHECKOUT = Path(__file__).resolve().parent.parent
CONSTRAINTS = Path(__file__).resolve().with_name("constraints.txt")
"""The releases that the tests ran with, of all that dat_rec asks for, directly or not."""
DEVELOPERS = "quickstart,launch,dev"
"""Extras of a virtual environment that ``make`` keeps."""
STAMP = "dat_rec.installed"
"""File in an environment that make keeps: its place and digest, or nothing while it is filled."""
STAMPED = (
    "setup.cfg",
    "pyproject.toml",
    "dat_rec/constraints.txt",
    "dat_rec/install.py",
    "dat_rec/versions.py",
)
"""Files that decide what is installed."""
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
PIP_LINES = 15
"""Lines of pip's own output that are shown when it fails."""
ASKED_FOR = f"""
import re, sys
from importlib import metadata
extras = sys.argv[1].split(",")
for distribution in ("dat_rec", "torchrec"):
    for line in metadata.requires(distribution) or ():
        wanted, _, marker = line.partition(";")
        extra = marker.partition("extra == ")[2].strip()[1:-1]
        if re.match(r"[a-z-]+", wanted)[0] in {STACK}:
            continue
        if not extra or distribution == "dat_rec" and extra in extras:
            print(wanted.strip())
"""
"""Prints what dat_rec and torchrec ask for, but for the stack itself."""

CURES = {
    "No space left on device": "free some disk (`df -h`), or point TMPDIR to a larger one",
    "Failed to establish a new connection": "check the network and the proxy settings",
    "Temporary failure in name resolution": "check the network and the proxy settings",
    "Read timed out": "try again; set PIP_DEFAULT_TIMEOUT=300 on a slow line",
    "No matching distribution found": "see whether `pip config list` names an index that has it",
    "externally-managed-environment": "use a virtual environment: pass --venv .venv",
    "No module named pip": "give this Python a pip: `python -m ensurepip`",
}
"""What pip says, and what helps."""


class InstallError(Exception):
    """One or more lines for the user: what failed, why, and the cure."""


def nvidia_gpu_present(dev: Path = Path("/dev")) -> bool:
    """Whether this machine has an NVIDIA GPU with a driver, seen without torch."""
    if (dev / "nvidia0").exists():
        return True
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return False
    listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def fbgemm_kind(torch_cuda: str | None, gpu: bool) -> str:
    """``cuda`` or ``cpu``: the FBGEMM that goes with the torch that is installed.

    The CPU build also works beside a CUDA torch; the CUDA build needs a CUDA torch.

    Args:
        torch_cuda: ``torch.version.cuda`` of the installed torch, None for a CPU build.
        gpu: whether the machine has a GPU.
    """
    return "cuda" if gpu and torch_cuda else "cpu"


def digest(torch: str, gpu: bool, checkout: Path = CHECKOUT) -> str:
    """Changes when what is installed has to change: pins, pairs, place, GPU, Python."""
    parts = [torch, str(gpu), str(checkout), sys.version]
    parts += [(checkout / name).read_text("utf-8") for name in STAMPED]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _say(line: str) -> None:
    print(line, flush=True)


def _run(command: Sequence[str], what: str) -> str:
    """Run ``command`` silently; its output is shown only if it fails."""
    # Another environment's packages and a user-wide install would hide what is missing here.
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    }
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-PIP_LINES:])
        cure = next(
            (cure for said, cure in CURES.items() if said in done.stdout),
            "`make clean`, then try again; the command was: " + " ".join(command),
        )
        raise InstallError(f"{what} failed:\n{tail}\nCure: {cure}")
    return done.stdout


def _install(python: Path, wanted: Sequence[str], what: str) -> None:
    """Run ``pip install``; prints one line, with the seconds that it took."""
    start = time.monotonic()
    print(f"  {what} …", end="", flush=True)
    took = ""
    try:
        # Modules compile when they are first used: the whole takes half the time.
        _run([str(python), *PIP, "install", "--no-compile", *wanted], what)
        took = f" {time.monotonic() - start:.0f} s"
    finally:
        _say(took)


def default_torch(gpu: bool) -> str:
    """The torch of the environment this runs in, if it is of a tested pair; else the default."""
    here = pair_of(version_of("torch") or "")
    return here[0] if here else DEFAULT["cuda" if gpu else "cpu"]


def fill(
    python: Path,
    torch: str,
    extras: str = DEVELOPERS,
    device: str | None = None,
    *,
    editable: bool = True,
    constraints: Path = CONSTRAINTS,
) -> None:
    """Install everything into ``python``'s environment, and try FBGEMM.

    Args:
        python: interpreter of the environment.
        torch: a release of ``PAIRS``.
        extras: extras of setup.cfg, with commas between them.
        device: ``cpu`` or ``cuda``; what this machine has without it.
        editable: whether the checkout is used where it stands, not copied.
        constraints: pip's constraints file: the releases of everything else.

    Raises:
        InstallError: pip failed, or the packages do not work together.
    """
    gpu = nvidia_gpu_present() if device is None else device == "cuda"
    _say(f"Installing for {'an NVIDIA GPU' if gpu else 'the CPU'}:")
    wheels = os.environ.get("TORCH_WHEELS", "")
    hint = "" if gpu or wheels else " (with TORCH_WHEELS=<index of CPU builds> it may be smaller)"
    index = ["--extra-index-url", wheels] if wheels else []
    pinned = ["--constraint", str(constraints)]
    _install(python, [*index, *pinned, f"torch=={torch}"], f"torch {torch}{hint}")
    program = "import torch; print('CUDA', torch.version.cuda)"
    cuda = _run([str(python), "-c", program], "importing torch").split()[-1]
    kind = fbgemm_kind(None if cuda == "None" else cuda, gpu)
    if gpu and kind == "cpu":
        _say("  this torch is a CPU build: the GPU stays idle (unset TORCH_WHEELS to change it)")
    other = FBGEMM["cpu" if kind == "cuda" else "cuda"]
    removed = _run([str(python), *PIP, "uninstall", "--yes", other], f"removing {other}")
    # Both own the folder fbgemm_gpu: removing one tears holes into the other.
    again = [] if f"Skipping {other}" in removed else ["--force-reinstall"]
    pair = [f"torchrec=={PAIRS[torch].torchrec}", f"{FBGEMM[kind]}=={PAIRS[torch].fbgemm}"]
    _install(python, ["--no-deps", *again, *pair], " and ".join(pair).replace("==", " "))
    if (CHECKOUT / "setup.cfg").exists():
        checkout = ["--editable", str(CHECKOUT)] if editable else [str(CHECKOUT)]
        _install(python, ["--no-deps", *checkout], "dat_rec")
    asked = _run([str(python), "-c", ASKED_FOR, extras], "reading what is asked for").splitlines()
    _install(python, [*pinned, *asked], "the rest")
    probe = "from dat_rec.preflight.probes import probe_fbgemm; probe_fbgemm()"
    _run([str(python), "-c", probe], "trying FBGEMM")


def _is_healthy(python: Path) -> bool:
    """Whether ``python`` starts, is the right release and has pip."""
    program = f"import sys, pip; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        return subprocess.run([python, "-c", program], capture_output=True).returncode == 0
    except OSError:
        return False


def _make_venv(folder: Path) -> None:
    if folder.exists():
        marks = (folder / "pyvenv.cfg", folder / STAMP)
        if any(folder.iterdir()) and not any(mark.exists() for mark in marks):
            raise InstallError(f"{folder} is no virtual environment: move it away")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / STAMP).touch()
    try:
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(
            f"{folder}: cannot make a virtual environment ({error}).\nCure: install the "
            "`venv` part of this Python (python3-venv on Debian and Ubuntu)"
        ) from error


def keep_venv(folder: Path, torch: str | None = None) -> None:
    """Make, update or repair the virtual environment ``folder``; nothing if it is current.

    A stamp inside it tells a whole environment of these very pins from anything else. One
    that was cut off half-made, was moved, or does not work after an update is made anew; a
    healthy one of the user's own making is only added to.

    Args:
        folder: of the virtual environment.
        torch: a release of ``PAIRS``; what goes with this machine's device without it.

    Raises:
        InstallError: says what failed and the cure.
    """
    folder = folder.resolve()
    python, stamp = folder / "bin" / "python", folder / STAMP
    gpu = nvidia_gpu_present()
    torch = torch or DEFAULT["cuda" if gpu else "cpu"]
    wanted = f"{folder}\n{digest(torch, gpu)}\n"
    found = stamp.read_text("utf-8") if stamp.exists() else None
    if found == wanted and python.exists():
        return
    users_own = found is None
    reusable = (found is None or found.startswith(f"{folder}\n")) and _is_healthy(python)
    if reusable:
        _say(f"{folder} is not current: updating it")
        if not users_own:
            stamp.write_text("")
    else:
        _say(f"{folder}: {'broken, making it anew' if folder.exists() else 'making it'}")
        _make_venv(folder)
    try:
        fill(python, torch)
    except InstallError as error:
        if users_own or not reusable:
            raise
        _say(f"{error}\nThe update failed: making {folder} anew")
        _make_venv(folder)
        fill(python, torch)
    stamp.write_text(wanted, "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser("python -m dat_rec.install", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--venv", type=Path, help="keep a virtual environment in this folder; with --torch alone")
    add("--torch", choices=list(PAIRS), help="which pair")
    add("--extras", default="", help="extras of setup.cfg")
    built_elsewhere = "for an image that is built elsewhere than it runs"
    add("--device", choices=("cpu", "cuda"), help=built_elsewhere)
    add("--editable", action="store_true", help="use the checkout where it stands")
    releases = "pip's file of the releases of all else"
    add("--constraints", type=Path, default=CONSTRAINTS, help=releases)
    chosen = parser.parse_args(arguments)
    if sys.version_info[:2] not in PYTHONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        print(
            f"This is Python {sys.version.split()[0]}: run it with one of {known}", file=sys.stderr
        )
        return 2
    try:
        if chosen.venv is None:
            gpu = nvidia_gpu_present() if chosen.device is None else chosen.device == "cuda"
            fill(
                Path(sys.executable),
                chosen.torch or default_torch(gpu),
                chosen.extras,
                chosen.device,
                editable=chosen.editable,
                constraints=chosen.constraints.resolve(),
            )
        else:
            keep_venv(chosen.venv, chosen.torch)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the next start makes it whole", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
