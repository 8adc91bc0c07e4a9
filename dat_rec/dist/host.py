r"""One host's part of a job: meet the other hosts, run torchrun, end with the ranks' exit code.

    python -m dat_rec.dist.host --job ID --nnodes 2 --nproc-per-node 8 --first HOST --replica 0 \
        -- train --data DATA --out RUN

Every host of a job runs this, whatever has started it (TorchX, Slurm, Kubernetes, a shell).
What torchrun leaves to chance is settled or refused here, in one line: a first host whose name
does not resolve (torchrun waits in silence), a port that another program holds, a host name
that stands for 127.0.1.1 (Debian's /etc/hosts: the others would be told to call themselves).

Exit codes: 0; 2 when a rank refused its input, which no restart mends, so that torchrun is
stopped; 75 when SIGTERM came and a checkpoint was written; 1 when the first host does not
answer; otherwise torchrun's own.
Standard library only: it must work where nothing else does.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dat_rec.errors import RankError, UserError

RENDEZVOUS = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5"
"""A lost host is noticed in seconds. Below 3 attempts, a host that comes back can form a
second world beside the first, both writing the same checkpoints."""
ENVIRONMENT = {
    # torchrun would keep one store over restarts, and gloo then calls addresses of the dead.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Ranks that are asked to stop write a checkpoint; torchrun kills them after this, 30 s if not
    # said (as a variable: not every torchrun has the option).
    "PET_SHUTDOWN_TIMEOUT": "3600",
}
DEFAULTS = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
"""Where the environment does not say otherwise."""
EXIT_FILE = "DAT_REC_EXIT_FILE"
"""Names a file in which a rank that ends with exit code 2 or 75 leaves the code."""
JOB = "DAT_REC_JOB"
"""Names the scheduler's job, which stays the same when it is queued again."""
FAILED, BAD_INPUT, STOPPED = 1, 2, 75
PORTS = range(20_000, 30_000)
"""Of jobs without a --port; below the kernel's own range."""
LOOK_S = 0.1
LAST_WORDS_S = 5.0
"""In which the ranks of this host end by themselves, once torchrun is told to stop."""
SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Meeting:
    """Where the hosts meet, and how they call this one."""

    endpoint: str
    """Address and port of the first host, for torchrun."""
    local_address: str | None = None
    interface: str | None = None
    """The network interface that has ``local_address``, where it is known."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this host's part; gives the exit code."""
    options = _parser().parse_args(arguments)
    # As the first process of a container it would be deaf to it while it waits for others.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _, most = _nodes(options.nnodes)
        if options.nproc_per_node < 1:
            raise UserError(f"--nproc-per-node is {options.nproc_per_node}: at least 1")
        meeting = Meeting("localhost:0")
        if most > 1:
            port = options.port or port_of(options.job)
            meeting = meet(options.first, port, options.replica == 0, options.meet_s)
    except (UserError, RankError) as error:
        print(f"dat-rec: {socket.gethostname()}: error: {error}", file=sys.stderr)
        # A host that does not answer may do so when the job is tried again.
        return BAD_INPUT if isinstance(error, UserError) else FAILED
    command = torchrun(options, meeting, first=most == 1 or options.replica == 0)
    return run(command, environment(options.job, meeting))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dat_rec.dist.host", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--job", default="", help="the job's own id, the same on every host")
    parser.add_argument("--nnodes", default="1", help="hosts, or LEAST:MOST")
    parser.add_argument("--nproc-per-node", type=int, default=1, help="ranks on each host")
    parser.add_argument("--first", default="localhost", help="name or address of the first host")
    parser.add_argument("--replica", type=int, default=0, help="this host's number")
    parser.add_argument("--port", type=int, default=0, help="on the first host; 0: by the job's id")
    parser.add_argument("--max-restarts", type=int, default=3, help="of the ranks, by torchrun")
    parser.add_argument("--meet-s", type=float, default=600, help="seconds to wait for the first")
    parser.add_argument("--module", default="dat_rec", help="what each rank runs")
    parser.add_argument("arguments", nargs="*", help="the module's, after --")
    return parser


def _nodes(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        found = int(least), int(most or least)
    except ValueError as error:
        raise UserError(f"--nnodes is {text!r}: a number of hosts, or LEAST:MOST") from error
    if not 1 <= found[0] <= found[1]:
        raise UserError(f"--nnodes is {text}: at least 1, the least first")
    return found


def port_of(job: str) -> int:
    """The port on which a job's hosts meet, if none is given: jobs side by side differ."""
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
    """This host's address on its network, and the interface that has it.

    Its own name often stands for a loopback address, which is no use to others.

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
    """IPv4 address by interface."""
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
    """The interface of the default route, or nothing."""
    for line in Path("/proc/net/route").read_text("ascii").splitlines()[1:]:
        name, destination, *_ = line.split()
        if destination == "00000000":
            return name
    return ""


def _reach(first: str, port: int, wait_s: float) -> str:
    """The first host's address, once its machine answers; whether it listens yet is the same."""
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
    """This host's address on the way there; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        own: str = probe.getsockname()[0]
        return own


def _interface_of(address: str) -> str | None:
    found = (name for name, ip in interface_addresses().items() if ip == address)
    return next(found, None)


def torchrun(options: argparse.Namespace, meeting: Meeting, *, first: bool) -> list[str]:
    """Torchrun's command line."""
    here = ["--local-addr", meeting.local_address] if meeting.local_address else []
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", options.nnodes, "--nproc-per-node", str(options.nproc_per_node)),
        *("--max-restarts", str(options.max_restarts)),
        *("--rdzv-id", options.job or "none", "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", meeting.endpoint),
        *("--rdzv-conf", f"{RENDEZVOUS},is_host={int(first)}"),
        *here,
        # 3: both streams, to the console and to files.
        *("--tee", "3"),
        *("-m", options.module, *options.arguments),
    ]


def environment(job: str, meeting: Meeting) -> dict[str, str]:
    """What torchrun and its ranks find in their environment."""
    # Clusters count their jobs from 1.
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    job = f"{cluster}-{job}" if job and cluster else job
    own = {JOB: job, **ENVIRONMENT} if job else ENVIRONMENT
    usual = dict(DEFAULTS)
    if meeting.interface:
        usual["GLOO_SOCKET_IFNAME"] = meeting.interface
    return usual | os.environ | own


def run(command: list[str], variables: dict[str, str]) -> int:
    """Run torchrun to its end, or to that of a rank whose failure no restart mends."""
    with tempfile.TemporaryDirectory(prefix="dat_rec-host-") as folder:
        file = Path(folder) / "codes"
        # torchrun would leave its own copies of the output in /tmp.
        variables = {"PET_LOG_DIR": folder} | variables | {EXIT_FILE: str(file)}
        # In a session of its own, so that what is sent to all of ours reaches it once.
        process = subprocess.Popen(
            command, env=variables, preexec_fn=_die_with_parent, start_new_session=True
        )
        asked = False

        def forward(number: int, _: FrameType | None) -> None:
            nonlocal asked
            if not asked:
                asked = True
                process.send_signal(number)

        signal.signal(signal.SIGTERM, forward)
        signal.signal(signal.SIGINT, forward)
        while process.poll() is None:
            time.sleep(LOOK_S)
            if BAD_INPUT in _codes(file):
                _stop(process, file)
        codes = _codes(file)
        # Of a torchrun that was killed: nobody would watch over them.
        _kill_all(file)
    if BAD_INPUT in codes:
        return BAD_INPUT
    if asked and STOPPED in codes:
        return STOPPED
    code: int = process.returncode
    return 128 - code if code < 0 else code


def _codes(file: Path) -> set[int]:
    try:
        return {int(line) for line in file.read_text("ascii").split()}
    except FileNotFoundError:
        return set()


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent is killed."""
    set_parent_death_signal = 1
    prctl: Any = ctypes.CDLL(None).prctl
    prctl(set_parent_death_signal, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes], file: Path) -> None:
    """Stop torchrun and its ranks, which have the time to end by themselves."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(LAST_WORDS_S)
    _kill_all(file)
    process.wait()


def _kill_all(file: Path) -> None:
    """Kill whatever torchrun has started, and itself: all that know of ``file``."""
    mark = f"{EXIT_FILE}={file}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    # Whoever stops all hosts of a job, once one has ended, must not change another's exit code: a
    # handler would give way to the default while Python ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)
