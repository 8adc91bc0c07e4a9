"""What one rank knows of itself and its host, gathered so that the ranks can be compared."""

import hashlib
import os
import platform
import shutil
import socket
import struct
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

import dat_rec
from dat_rec.dist.rank_context import RankContext
from dat_rec.versions import STACK

SHM = Path("/dev/shm")
LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True)
class Facts:
    """One rank's."""

    rank: int
    host: str
    """Its host's name; with the number of its torchrun where several bear the same name."""
    group: int
    """The number of its torchrun."""
    network: str
    """The same for ranks that share network interfaces (a kernel, and a namespace of it)."""
    versions: dict[str, str]
    address: str
    """By which gloo lets other ranks reach this one; nothing if it cannot be told."""
    name_address: str
    """What the host's name stands for, on the host itself; nothing if it is unknown."""
    local_world_size: int
    device: str
    """``cpu`` or ``cuda``."""
    gpus: tuple[str, ...]
    """Models of the host's GPUs."""
    free_bytes: int
    """Memory of the host that is available now."""
    free_shm_bytes: int | None
    """Free bytes of /dev/shm, if there is one."""


def own_facts(context: RankContext) -> Facts:
    """This rank's, once its process group has been used."""
    on_gpu = context.device.type == "cuda"
    gpus = range(torch.cuda.device_count() if on_gpu else 0)
    return Facts(
        rank=context.rank,
        host=platform.node(),
        group=int(os.environ.get("GROUP_RANK", "0")),
        network=_network(),
        versions=versions(),
        address=listening_address(),
        name_address=_name_address(),
        local_world_size=context.local_world_size,
        device=context.device.type,
        gpus=tuple(torch.cuda.get_device_name(gpu) for gpu in gpus),
        free_bytes=_free_memory(),
        free_shm_bytes=shutil.disk_usage(SHM).free if SHM.exists() else None,
    )


def versions() -> dict[str, str]:
    """Version by package, of what decides a run's numbers or its files."""
    found = {"python": platform.python_version()}
    for name in (*STACK, "numpy", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"dat_rec": f"{dat_rec.__version__}, source {source_digest()[:12]}"}


@cache
def source_digest() -> str:
    """SHA-256 of this package's own source files and their names, in hexadecimal."""
    folder = Path(dat_rec.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def listening_address() -> str:
    """The address on which gloo awaits other ranks: this process's only one that is not all."""
    sockets = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            sockets.add(descriptor.readlink().name)
        except OSError:  # closed meanwhile
            continue
    for table in ("tcp", "tcp6"):
        file = Path("/proc/self/net") / table
        for line in file.read_text("ascii").splitlines()[1:] if file.exists() else ():
            fields = line.split()
            address, inode = fields[1].partition(":")[0], fields[9]
            listens = fields[3] == LISTENS and f"socket:[{inode}]" in sockets
            if listens and int(address, 16):
                return _readable(address)
    return ""


def _readable(address: str) -> str:
    """An address of /proc/net/tcp: hexadecimal words in the machine's own byte order."""
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, packed)


def _network() -> str:
    kernel = Path("/proc/sys/kernel/random/boot_id")
    booted = kernel.read_text("ascii").strip() if kernel.exists() else platform.node()
    return f"{booted}:{Path('/proc/self/ns/net').stat().st_ino}"


def _name_address() -> str:
    try:
        return socket.gethostbyname(platform.node())
    except OSError:
        return ""


def _free_memory() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
