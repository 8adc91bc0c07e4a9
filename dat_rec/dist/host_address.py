"""Where the hosts of a job meet: the first host's address and port, and this host's own address.

What torchrun leaves to chance is settled or refused here: a name that does not resolve, a port that
another program holds, a host name that stands for a loopback address. Standard library only, so
that it works where nothing else does.
"""

import fcntl
import os
import socket
import struct
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from dat_rec.errors import RankError, UserError

PORTS = range(20_000, 30_000)
"""Ports of jobs without a --port; below the kernel's own range."""
SIOCGIFADDR = 0x8915
"""Linux's request for the IPv4 address of an interface."""


@dataclass(frozen=True)
class Meeting:
    """Where the hosts meet, and how they call this one."""

    endpoint: str
    """Address and port of the first host, for torchrun."""
    local_address: str | None = None
    interface: str | None = None
    """The network interface that has ``local_address``, where it is known."""


def port_of(job: str) -> int:
    """Return the port on which a job's hosts meet if none is given; jobs side by side differ."""
    return PORTS[zlib.crc32(job.encode()) % len(PORTS)]


def meet(first: str, port: int, is_first: bool, wait_s: float) -> Meeting:
    """Find the first host, and this one's address as the first sees it.

    Args:
        first: name or address of the first host.
        port: on which it will listen.
        is_first: whether this is the first host.
        wait_s: seconds for its name to be known and its machine to answer.

    Raises:
        UserError: the port is taken, or it is not clear by which address others call this host.
        RankError: the name stays unknown, or the machine does not answer.
    """
    if is_first:
        check_free(port)
        try:
            address, interface = own_address()
        except UserError:
            # Some schedulers call the first host so in its own environment alone.
            alone = all(ip.startswith("127.") for ip in interface_addresses().values())
            if first != "localhost" or not alone or "GLOO_SOCKET_IFNAME" in os.environ:
                raise
            address, interface = "127.0.0.1", "lo"
        return Meeting(f"{address}:{port}", address, interface)
    address = _reach(first, port, wait_s)
    own = _address_towards(address, port)
    return Meeting(f"{address}:{port}", own, _interface_of(own))


def check_free(port: int) -> None:
    """Refuse a port on which nothing can listen here.

    Raises:
        UserError: another program does, or it is no port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} cannot be listened on ({error}): another job's? pass another "
                "--rdzv_port, or 0 for one of the job's own"
            ) from error


def own_address() -> tuple[str, str]:
    """Return this host's address on its network, and the interface that has it.

    The host's name often stands for a loopback address, which is no use to others.

    Raises:
        UserError: there is none, or it is not clear which.
    """
    addresses = interface_addresses()
    wanted = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if wanted:
        if wanted not in addresses:
            raise UserError(
                f"GLOO_SOCKET_IFNAME is {wanted}, which has no IPv4 address: one of "
                f"{', '.join(addresses)}"
            )
        return addresses[wanted], wanted
    try:
        by_name = socket.gethostbyname(socket.gethostname())
    except OSError:
        by_name = ""
    outside = {name: ip for name, ip in addresses.items() if not ip.startswith("127.")}
    for name, ip in outside.items():
        if ip == by_name:
            return ip, name
    if len(outside) > 1 and (route := _default_interface()) in outside:
        return outside[route], route
    if len(outside) == 1:
        ((name, ip),) = outside.items()
        return ip, name
    found = ", ".join(f"{name} {ip}" for name, ip in addresses.items())
    raise UserError(
        f"by which address do other hosts call this one ({found or 'no interfaces'})? set "
        "GLOO_SOCKET_IFNAME to the interface of the cluster's network"
    )


def interface_addresses() -> dict[str, str]:
    """Return the IPv4 address of each network interface that has one, by name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # has none
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _default_interface() -> str:
    """Return the interface of the default route; an empty name without one."""
    for line in Path("/proc/net/route").read_text("ascii").splitlines()[1:]:
        name, destination, *_ = line.split()
        if destination == "00000000":
            return name
    return ""


def _reach(first: str, port: int, wait_s: float) -> str:
    """Return the first host's address once its machine answers, whether it listens yet or not."""
    begin = time.monotonic()
    said = False
    while True:
        try:
            address = socket.gethostbyname(first)
            with socket.create_connection((address, port), timeout=3):
                return address
        except ConnectionRefusedError:  # torchrun is not there yet, but the machine is
            return address
        except socket.gaierror as error:
            reason = f"its name is not known here ({error.strerror})"
        except OSError as error:
            reason = f"{address} does not answer ({error})"
        waited = time.monotonic() - begin
        if waited > wait_s:
            raise RankError(
                f"the first host, {first}: {reason}, after {waited:.0f} s: mend the name service, "
                "or let hosts of one job reach one another (firewall, network)"
            )
        if waited > 5 and not said:
            said = True
            here = socket.gethostname()
            print(f"dat-rec: {here}: waiting for {first}: {reason}", file=sys.stderr, flush=True)
        time.sleep(min(1.0, wait_s / 10))


def _address_towards(address: str, port: int) -> str:
    """Return this host's address on the way there; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        own: str = probe.getsockname()[0]
        return own


def _interface_of(address: str) -> str | None:
    found = (name for name, ip in interface_addresses().items() if ip == address)
    return next(found, None)
