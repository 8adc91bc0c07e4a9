"""The address by which gloo lets other ranks reach this process, read from the kernel's tables.

gloo does not tell it, and takes 127.0.0.1 without a word where a host's own name stands for it.
"""

import socket
import struct
from pathlib import Path

LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def listening_address() -> str:
    """Return the address on which gloo awaits other ranks; empty if it cannot be told.

    gloo's is this process's only listening socket that is bound to one address.
    """
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
    """Return an address of /proc/net/tcp, hexadecimal words in the machine's own byte order."""
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, packed)
