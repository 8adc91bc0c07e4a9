"""Comes in: what is installed here. Goes out: whether torch, torchrec and FBGEMM go together.

They work only in matching releases, which pip cannot see. The sets that are tested stand here and
nowhere else. Standard library only at import, so that it works where nothing else does.
"""

import gc
import importlib
import importlib.util
import logging
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import dat_rec
from dat_rec.errors import UserError

INSTALL = f"{sys.executable} -m dat_rec.install"
"""The cure of whatever is missing, too old, or in another's place."""


@dataclass(frozen=True)
class Pair:
    """The releases that go with one release of torch."""

    torchrec: str
    fbgemm: str


PAIRS: Mapping[str, Pair] = {
    "2.14.1": Pair(torchrec="1.9.2", fbgemm="1.9.0"),
    "2.13.0": Pair(torchrec="1.8.0", fbgemm="1.8.0"),
    "2.11.0": Pair(torchrec="1.6.1", fbgemm="1.6.0"),
}
"""The releases that go with each torch, newest first; each set was tested (``make pairs``)."""
DEFAULT: Mapping[str, str] = {"cuda": "2.14.1", "cpu": "2.13.0"}
"""The torch that is installed unless another is asked for, with a GPU and without."""
FBGEMM: Mapping[str, str] = {"cpu": "fbgemm-gpu-cpu", "cuda": "fbgemm-gpu"}
"""Two distributions of one package, ``fbgemm_gpu``: only one may be installed."""
STACK = ("torch", "torchrec", *FBGEMM.values())


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: (2, 14, 1) of ``2.14.1+cu130``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, None without one."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def pair_of(torch: str) -> tuple[str, Pair] | None:
    """The tested torch of the same minor release, and what goes with it; None if there is none."""
    same = (item for item in PAIRS.items() if release(item[0])[:2] == release(torch)[:2])
    return next(same, None)


def mismatch(torch: str, torchrec: str, fbgemm: str) -> str | None:
    """What is wrong with releases that do not go together, in words; None if nothing is known.

    Patch releases do not count. Releases of which none stands in ``PAIRS`` may go together.
    """
    sets = [(known, pair.torchrec, pair.fbgemm) for known, pair in PAIRS.items()]
    known = [tuple(release(version)[:2] for version in versions) for versions in sets]
    here = tuple(release(version)[:2] for version in (torch, torchrec, fbgemm))
    if here in known or not any(a == b for one in known for a, b in zip(here, one, strict=True)):
        return None
    found = f"torch {torch}, torchrec {torchrec} and FBGEMM {fbgemm} do not go together"
    right = pair_of(torch)
    if right is None:
        return f"{found}, and no set with this torch is known"
    return f"{found}: this torch needs torchrec {right[1].torchrec} and FBGEMM {right[1].fbgemm}"


def in_one_line(error: BaseException) -> str:
    """What happened, and why where Python knows it, which is where a missing symbol is named."""
    first = (str(error).splitlines() or [""])[0]
    line = f"{type(error).__name__}: {first}"[:300]
    return f"{line} ← {in_one_line(error.__cause__)}" if error.__cause__ else line


def require_stack() -> None:
    """Import torch, FBGEMM and torchrec, or say in one line why they cannot be used.

    Raises:
        UserError: one is missing, they do not go together, both builds of FBGEMM lie over one
            another, or one does not load.
    """
    found = {name: version_of(name) for name in STACK}
    builds = [name for name in FBGEMM.values() if found[name] is not None]
    needed = {"torch": "torch", "fbgemm_gpu": "fbgemm-gpu", "torchrec": "torchrec"}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: run `{INSTALL}`")
    if len(builds) > 1:
        both = " and ".join(f"{name} {found[name]}" for name in builds)
        raise UserError(f"{both} overwrite each other's files: run `{INSTALL}`")
    torch, torchrec = found["torch"], found["torchrec"]
    fbgemm = found[builds[0]] if builds else None
    if torch and torchrec and fbgemm and (wrong := mismatch(torch, torchrec, fbgemm)):
        raise UserError(f"{wrong}: run `{INSTALL}`")
    _load(list(needed), builds)


def require_torch() -> None:
    """Import torch alone, which answers from an export, or say in one line why it cannot be used.

    Raises:
        UserError: it is missing, or does not load.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"torch not installed: run `{INSTALL}`")
    _load(["torch"], [])


def _load(modules: Sequence[str], builds: Sequence[str]) -> None:
    # What is imported stays to the end: to search it for garbage, again and again and once more
    # on the way out, would take two of a start's four seconds.
    gc.disable()
    # FBGEMM logs what it also raises.
    logging.disable()
    try:
        for module in modules:
            try:
                importlib.import_module(module)
            # A broken library may raise anything.
            except Exception as error:
                raise UserError(_unloadable(module, error, builds)) from error
    finally:
        logging.disable(logging.NOTSET)
        gc.freeze()
        gc.enable()


def _unloadable(module: str, error: Exception, builds: Sequence[str]) -> str:
    said = in_one_line(error)
    if FBGEMM["cuda"] in builds and "libnvidia-ml" in said:
        what = "fbgemm-gpu, the CUDA build, needs NVIDIA's driver, which is not here"
        return f"{what}: install the driver, or for the CPU run `{INSTALL}`"
    return f"{module} does not load ({said}): see `{sys.executable} -m dat_rec doctor`"


def about() -> str:
    """One line for a bug report: dat_rec's version, Python's, and those of the stack."""
    found = ((name, version_of(name)) for name in STACK)
    stack = ", ".join(f"{name} {version}" for name, version in found if version)
    return (
        f"dat-rec {dat_rec.__version__} (Python {platform.python_version()}, "
        f"{stack or f'without torch: run `{INSTALL}`'})"
    )
