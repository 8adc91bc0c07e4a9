"""Several servers on one port, each a process: they are started, started again, and ended.

All listen on one socket, which outlives each of them: connections that wait there are taken by
whichever is free. This process opens no export and answers nothing; it is there to see to the
others, which end by themselves, in good order, when it is gone.
"""

import multiprocessing
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from dat_rec.errors import UserError
from dat_rec.serve.access import bound, url
from dat_rec.serve.metrics import FIGURES, say
from dat_rec.serve.options import Options

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LASTING_S = 10.0
"""Seconds after which the end of a worker is not one of several in a row."""
LONGEST_S = 60.0
"""Maximum seconds until a worker that cannot be started is tried again."""
LATE_S = 10.0
"""Seconds beyond ``drain_s`` after which workers are ended whatever they do."""
READY, REFUSED, RELOAD = "ready", "refused", "reload"
"""What workers tell: the export's id, or why it cannot be opened; that all are to reload."""


@dataclass
class _Worker:
    """One of the processes, and whoever follows it."""

    number: int
    process: BaseProcess | None = None
    line: Connection | None = None
    """To the process; when it is cut, the other end knows that the one here is gone."""
    export: str | None = None
    """What it serves; None while it starts."""
    began: float = 0.0
    failures: int = 0
    """How many ended soon, one after the other."""
    due: float = 0.0
    """When to start the next one."""
    reason: str = ""
    """Why the last one could not open the export."""
    reload: bool = False
    """Whether all were to reload while it started."""


@dataclass
class Workers:
    """Servers of one export on one port.

    Args:
        options: of each.
        number: how many.
        before: called first in each of their processes.
    """

    options: Options
    number: int
    before: Callable[[], None]
    _workers: list[_Worker] = field(default_factory=list)
    _caught: list[int] = field(default_factory=list)
    """Signals that were not looked at yet."""

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C, and answer what is being asked then.

        Raises:
            UserError: the export cannot be opened by any, or the port is taken.
        """
        options = self.options
        told, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for one in SIGNALS:
            signal.signal(one, lambda number, _: self._caught.append(number))
        with (
            bound(options.host, options.port) as sock,
            tempfile.TemporaryDirectory(prefix="dat-rec-serve-") as figures,
        ):
            os.environ[FIGURES] = figures
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["dat_rec.serve.run"])
            _begin_fork_server()
            self._workers = [_Worker(number) for number in range(1, self.number + 1)]
            address = url(options.host, sock)
            try:
                # What is wrong with the export is said by the first, in one line.
                self._start(context, self._workers[0], sock)
                ending = shown = False
                while not ending:
                    self._wait(told)
                    while self._caught:
                        if self._caught.pop() == signal.SIGHUP:
                            self._reload()
                        else:
                            ending = True
                    for worker in self._workers:
                        if worker.process is not None and not worker.process.is_alive():
                            self._ended(worker)
                        due = self._is_to_start(worker) and time.monotonic() >= worker.due
                        if due and not ending:
                            self._start(context, worker, sock)
                    if not shown and all(worker.export for worker in self._workers):
                        shown = True
                        say(f"serves export {self._workers[0].export} at {address}")
                        say(f"{self.number} workers, processes {self._processes()}")
            finally:
                sock.close()
                self._end()
        say("ended")

    def _start(
        self,
        context: multiprocessing.context.ForkServerContext,
        worker: _Worker,
        sock: socket.socket,
    ) -> None:
        worker.line, other = context.Pipe()
        name = f"worker {worker.number}"
        worker.process = context.Process(
            target=_work, args=(self.before, self.options, sock, other), name=name
        )
        worker.process.start()
        other.close()
        worker.export, worker.reason, worker.began = None, "", time.monotonic()
        worker.reload = False

    def _is_to_start(self, worker: _Worker) -> bool:
        """Whether there is none: of the first ones, the others wait for one that serves."""
        first = worker is self._workers[0]
        return worker.process is None and (first or any(one.export for one in self._workers))

    def _wait(self, told: socket.socket) -> None:
        """Until something has happened, or is due."""
        now = time.monotonic()
        due = [worker.due - now for worker in self._workers if self._is_to_start(worker)]
        lines = [worker.line for worker in self._workers if worker.line is not None]
        ends = [worker.process.sentinel for worker in self._workers if worker.process is not None]
        if told in wait([told, *lines, *ends], max(0.0, min([*due, LONGEST_S]))):
            told.recv(4096)
        for worker in self._workers:
            self._hear(worker)

    def _hear(self, worker: _Worker) -> None:
        """What a worker has told."""
        while worker.line is not None and worker.line.poll():
            try:
                what, value = worker.line.recv()
            except (EOFError, OSError):
                worker.line = None
                return
            if what == READY:
                worker.export = value
                if worker.reload:
                    self._reload(worker)
                if worker.failures:
                    say(f"{self.number} workers, processes {self._processes()}")
            elif what == REFUSED:
                worker.reason = value
            else:
                self._reload(*(one for one in self._workers if one is not worker))

    def _processes(self) -> str:
        return ", ".join(str(one.process.pid) for one in self._workers if one.process is not None)

    def _ended(self, worker: _Worker) -> None:
        """A worker that nobody has asked to end has ended.

        Raises:
            UserError: it could not open the export, and no other serves one.
        """
        from prometheus_client.multiprocess import mark_process_dead

        process = worker.process
        assert process is not None
        mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        self._hear(worker)
        others = any(one.export for one in self._workers if one is not worker)
        if worker.reason and not others:
            raise UserError(worker.reason)
        code = process.exitcode or 0
        how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
        how = worker.reason or how
        lasted = time.monotonic() - worker.began > LASTING_S and worker.export is not None
        worker.failures = 1 if lasted else worker.failures + 1
        wait_s = min(LONGEST_S, 2.0 ** (worker.failures - 2)) if worker.failures > 1 else 0.0
        say(f"worker {worker.number}: {how}: starts it again in {wait_s:.0f} s")
        process.close()
        worker.process, worker.line, worker.export = None, None, None
        worker.due = time.monotonic() + wait_s

    def _reload(self, *workers: _Worker) -> None:
        """Let some, or all, look at the export: those that start, once they serve."""
        for worker in workers or self._workers:
            process = worker.process
            if worker.export is None:
                worker.reload = True
            elif process is not None and process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGHUP)

    def _end(self) -> None:
        """End all, and wait for them; a second signal does not wait for answers."""
        deadline = time.monotonic() + self.options.drain_s + LATE_S
        left = [worker.process for worker in self._workers if worker.process is not None]
        self._caught.clear()
        for process in left:
            process.terminate()
        while left and time.monotonic() < deadline:
            wait([process.sentinel for process in left], 0.1)
            left = [process for process in left if process.is_alive()]
            while self._caught:
                if self._caught.pop() != signal.SIGHUP:
                    for process in left:
                        process.terminate()
        for process in left:
            process.kill()
            process.join()


def _begin_fork_server() -> None:
    """Start the process that workers are forked from, which a terminal that is closed leaves be."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # What is ignored stays so in it.
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, handler)


def _work(
    before: Callable[[], None], options: Options, sock: socket.socket, line: Connection
) -> None:
    """A worker's process."""
    # A terminal's signals are for the process that sees to the workers.
    os.setpgid(0, 0)

    def tell(what: str, value: str) -> None:
        with suppress(OSError):  # The other end is gone, and this one about to end.
            line.send((what, value))

    # When the line is cut, the process that sees to the workers is gone.
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    try:
        before()
        from dat_rec.serve.run import serve

        serve(
            options,
            sock,
            ready=lambda export: tell(READY, export),
            reload_others=lambda: tell(RELOAD, ""),
            turn=Path(os.environ[FIGURES]) / "turn",
        )
    except UserError as error:
        tell(REFUSED, str(error))
        sys.exit(2)


def _end_with(line: Connection) -> None:
    select.select([line], [], [])
    os.kill(os.getpid(), signal.SIGTERM)
