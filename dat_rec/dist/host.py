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
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from dat_rec.dist.host_address import Meeting, meet, port_of
from dat_rec.errors import EXIT_FILE, STOPPED, RankError, UserError

RENDEZVOUS = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5"
"""Settings by which torchrun notices a lost host in seconds. Below 3 attempts, a host that comes
back can form a second world beside the first, both writing the same checkpoints."""
ENVIRONMENT = {
    # torchrun would keep one store over restarts, and gloo then calls addresses of the dead.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    # Ranks that are asked to stop write a checkpoint; torchrun kills them after this, 30 s if not
    # said (as a variable: not every torchrun has the option).
    "PET_SHUTDOWN_TIMEOUT": "3600",
}
DEFAULTS = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
"""Variables that the ranks get unless the environment has them."""
JOB = "DAT_REC_JOB"
"""Environment variable with the scheduler's job, which stays the same when it is queued again."""
FAILED, BAD_INPUT = 1, 2
POLL_S = 0.1
"""Seconds between two looks at torchrun."""
GRACE_S = 5.0
"""Seconds in which the ranks of this host end by themselves, once torchrun is told to stop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this host's part of the job, and return the exit code."""
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
    add = parser.add_argument
    add("--job", default="", help="the job's own id, the same on every host")
    add("--nnodes", default="1", help="number of hosts, or LEAST:MOST")
    add("--nproc-per-node", type=int, default=1, help="ranks on each host")
    add("--first", default="localhost", help="name or address of the first host")
    add("--replica", type=int, default=0, help="number of this host, from 0")
    add("--port", type=int, default=0, help="port on the first host; 0: by the job's id")
    add("--max-restarts", type=int, default=3, help="maximum number of restarts by torchrun")
    add("--meet-s", type=float, default=600, help="maximum seconds to wait for the first host")
    add("--module", default="dat_rec", help="Python module that each rank runs")
    add("arguments", nargs="*", help="arguments of the module, after --")
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


def torchrun(options: argparse.Namespace, meeting: Meeting, *, first: bool) -> list[str]:
    """Return torchrun's command line."""
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
        # Without the dashes torchrun takes our --run for the beginning of an option of its own.
        *("-m", "--", options.module, *options.arguments),
    ]


def environment(job: str, meeting: Meeting) -> dict[str, str]:
    """Return the environment of torchrun and its ranks."""
    # Clusters count their jobs from 1.
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    job = f"{cluster}-{job}" if job and cluster else job
    own = {JOB: job, **ENVIRONMENT} if job else ENVIRONMENT
    usual = dict(DEFAULTS)
    if meeting.interface:
        usual["GLOO_SOCKET_IFNAME"] = meeting.interface
    return usual | os.environ | own


def run(command: list[str], variables: dict[str, str]) -> int:
    """Run torchrun to its end, or to that of a rank whose failure no restart mends.

    Returns:
        The exit code of this host.
    """
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
            time.sleep(POLL_S)
            if BAD_INPUT in _codes(file):
                _stop(process, file)
        codes = _codes(file)
        # The ranks of a torchrun that was killed: nobody would watch over them.
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
    """Stop torchrun and its ranks, which have ``GRACE_S`` to end by themselves."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
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
