"""torchrun and its ranks, forked from a server that has imported all: many starts, one import.

It is torchrun's own code, in a process of its own; each rank is a child of it in a session of its
own, which exits, is killed and is told as if torchrun had executed it. What torchrun is to run
but a program of ours (a shell that mounts something first), it executes.
"""

import gc
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import tests.distributed.ranks  # noqa: F401  # says what the server imports

PROGRAMS = ("dat_rec", "tests.end_to_end.disturbed")
"""Modules that are forked where torchrun would execute ``python -m MODULE``."""
COMM = Path("/proc/self/comm")
"""The name by which the kernel knows a process: a fork has the server's variables in /proc."""


def _name(start: str, out: str, rank: int | None) -> str:
    """The name of a rank's process, or of torchrun's: 15 characters, as many as there may be."""
    return f"{start[:6]}{_of_run(out)}{'---' if rank is None else f'{rank:03d}'}"


def _of_run(out: str) -> str:
    return sha256(out.encode()).hexdigest()[:6]


def forked_of(start: str = "", out: str = "") -> dict[int, int | None]:
    """The living processes of a start, or of a run, with the rank of each; none is torchrun's."""
    found: dict[int, int | None] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text().strip()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # ended meanwhile
            continue
        parts = re.fullmatch(r"([0-9a-f]{6})([0-9a-f]{6})(\d{3}|---)", name)
        if parts is None or state in "ZX":
            continue
        if parts[1] == (start[:6] or parts[1]) and (not out or parts[2] == _of_run(out)):
            found[int(folder.name)] = int(parts[3]) if parts[3] != "---" else None
    return found


class ForkedTorchrun:
    """torchrun in a process of its own, with what ``Launched`` asks a ``Popen``.

    Args:
        words: torchrun's arguments.
        variables: the whole environment.
        log: what torchrun and its ranks print is added to it.
        start: what no other start has.
        out: the run's folder.
    """

    def __init__(
        self, words: Sequence[str], variables: Mapping[str, str], log: Path, start: str, out: str
    ) -> None:
        # Whoever waits for a word reads it before torchrun has begun.
        log.touch()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_torchrun, args=(list(words), dict(variables), log, start, out)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of torchrun."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("torchrun", timeout or 0)
        return self._process.exitcode


class _ForkedPopen:
    """A forked rank, with what torchrun asks a ``Popen``."""

    def __init__(self, process: BaseProcess, begun: int, begins: int) -> None:
        self._process = process
        process.start()
        os.close(begins)
        # Now it has a session of its own, which torchrun may send signals to.
        os.read(begun, 1)
        os.close(begun)
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a rank", timeout or 0)
        return self._process.exitcode


def _torchrun(words: list[str], variables: dict[str, str], log: Path, start: str, out: str) -> None:
    """Run torchrun in this process, to its end."""
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(file, number)
    import torch.distributed.run as torchrun
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = _popen(start, out)  # type: ignore[assignment, misc]
    sys.argv = ["torchrun", *words]
    try:
        torchrun.main(words)
    except Exception as error:
        # Without the frames of these tests.
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def _popen(start: str, out: str) -> Callable[..., Any]:
    def popen(args: Sequence[str], env: dict[str, str], **options: Any) -> Any:
        if not (args[:2] == (sys.executable, "-m") and args[2] in PROGRAMS):
            return subprocess.Popen(args, env=env, **options)
        begun, begins = os.pipe()
        name = _name(start, out, int(env["RANK"]))
        # A rank has this name, too, until it has its own.
        COMM.write_text(_name(start, out, None))
        process = multiprocessing.get_context("fork").Process(
            target=_rank, args=(list(args[2:]), env, name, begins)
        )
        return _ForkedPopen(process, begun, begins)

    return popen


def _rank(words: list[str], variables: dict[str, str], name: str, begins: int) -> None:
    """Run a program of ours in this process, as if it had been executed."""
    os.setsid()
    COMM.write_text(name)
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As execution does: those of torchrun's stores.
    for entry in list(Path("/proc/self/fd").iterdir()):
        if entry.is_symlink() and str(entry.readlink()).startswith("socket:"):
            os.close(int(entry.name))
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = words
    os.write(begins, b".")
    os.close(begins)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
