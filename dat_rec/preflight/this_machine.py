"""What this machine has: CPU cores, memory, GPUs, backends that work, and room for runs.

Standard library only, so that it works where nothing else does.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dat_rec.dist.host_memory import host_memory_bytes
from dat_rec.install import nvidia_gpu_present
from dat_rec.preflight.probes import GIB, ProbeResults, Probes
from dat_rec.preflight.report import BACKENDS, DEVICES, SPACE, Check, Level
from dat_rec.versions import INSTALL

MIN_DISK, GOOD_DISK = 1 * GIB, 5 * GIB
"""Free bytes of the working folder: below the first is a problem, below the second worth a note."""
SHM = Path("/dev/shm")
MIN_SHM = 1 * GIB
"""Free bytes of /dev/shm, below which the report notes it."""


def check_devices(results: ProbeResults, kind: str) -> Iterable[Check]:
    """Tell CPU cores, memory and GPUs.

    Args:
        results: of the probes, "gpus" among them.
        kind: ``cpu`` or ``cuda``, the build of FBGEMM that belongs here.
    """
    yield Check(DEVICES, "cpu cores", "ok", str(len(os.sched_getaffinity(0))))
    yield Check(DEVICES, "memory", "ok", f"{host_memory_bytes() / GIB:.1f} GiB")
    level, gpus = results.get("gpus", ("problem", "unknown: torch does not load"))
    if level == "ok" and gpus == "none" and nvidia_gpu_present():
        if kind == "cpu":
            found, cure = "there, but this torch is a CPU build", f"env -u TORCH_WHEELS {INSTALL}"
        else:
            found, cure = "there, but torch cannot use it (driver too old?)", "nvidia-smi"
        yield Check(DEVICES, "gpus", "note", found, cure)
    else:
        yield Check(DEVICES, "gpus", "ok" if level == "ok" else "note", gpus)


def check_backends(results: ProbeResults, probes: Probes) -> Iterable[Check]:
    """Tell which probes succeeded; "gpus" stands among the devices.

    Args:
        results: of those that began. One that an earlier probe's crash kept from it is missing.
        probes: all that were to be tried.
    """
    for name, (_, cure) in probes.items():
        if name == "gpus":
            continue
        level, found = results.get(name, ("problem", "not tried: an earlier one crashed"))
        bad = level != "ok"
        yield Check(BACKENDS, name, "problem" if bad else "ok", found, cure if bad else None)


def check_space(working: Path | None = None, shm: Path = SHM) -> Iterable[Check]:
    """Tell the room for runs in the working folder, and for shared memory."""
    free = shutil.disk_usage(working or Path.cwd()).free
    level: Level = "ok" if free >= GOOD_DISK else "note" if free >= MIN_DISK else "problem"
    cure = None if level == "ok" else "du -xh . | sort -h | tail"
    yield Check(SPACE, "disk here", level, f"{free / GIB:.1f} GiB free", cure)
    yield check_shared_memory(SPACE, free_shared_memory(shm), shm=shm)


def free_shared_memory(shm: Path = SHM) -> int | None:
    """Return the free bytes of /dev/shm; None if there is none."""
    return shutil.disk_usage(shm).free if shm.exists() else None


def check_shared_memory(
    group: str, free: int | None, host: str | None = None, shm: Path = SHM
) -> Check:
    """Judge the free bytes of /dev/shm, through which a host's processes exchange tensors.

    Args:
        group: of the report.
        free: None if there is no /dev/shm.
        host: of several, the one with the least.
        shm: where it is mounted.
    """
    if free is None:
        found, cure = f"missing on {host}" if host else "missing", f"mount -t tmpfs tmpfs {shm}"
        return Check(group, str(shm), "note", found, cure)
    found = f"{free / GIB:.1f} GiB free" + (f", at least ({host})" if host else "")
    if free < MIN_SHM:
        cure = "in a container: docker run --shm-size=2g …"
        return Check(group, str(shm), "note", found, cure)
    return Check(group, str(shm), "ok", found)
