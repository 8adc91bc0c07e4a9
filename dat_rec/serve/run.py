"""The server's process: opens the export, listens, reloads, and ends when it is asked to."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import torch
import uvicorn

from dat_rec.errors import UserError
from dat_rec.serve.answers import Answers
from dat_rec.serve.app import Service
from dat_rec.serve.current import Current
from dat_rec.serve.metrics import Metrics, say
from dat_rec.serve.options import Options
from dat_rec.serve.protocol import BoundedProtocol

CONNECTIONS = 4096
"""Maximum number of open connections; others are answered with 503."""
KEEP_ALIVE_S = 75
"""Seconds for which a connection may stay idle: longer than balancers keep theirs (60 s), which
would else write into one that is being closed."""
SWITCH_S = 0.0005
"""Seconds after which a thread that computes lets the one that listens have a word."""


def serve(
    options: Options,
    sock: socket.socket,
    ready: Callable[[str], None],
    reload_others: Callable[[], None] | None = None,
    turn: Path | None = None,
) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, and answer what is being asked then; ends the process.

    Args:
        options: what to serve, and how.
        sock: where to listen, which other servers may do too.
        ready: told the export's id once it is served.
        reload_others: called when somebody has ordered a reload.
        turn: a file for which servers take turns to open a new export.

    Raises:
        UserError: the export cannot be opened.
    """
    torch.set_num_threads(1)
    # Else a new export would be opened on all cores, beside those who wait for answers.
    pa.set_cpu_count(1)
    sys.setswitchinterval(SWITCH_S)
    metrics = Metrics()
    config = uvicorn.Config(
        _not_yet,
        options.host,
        options.port,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(options.drain_s)),
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        current = Current(options.export, options.limits.filter_s, metrics, turn)
        answers = Answers(current, options.limits.waiting, metrics)
        service = Service(current, answers, options.limits, metrics, options.token, reload_others)
        config.app = service.app()
        runner.run(_serve(_Server(config, service), current, options.watch_s, sock, ready))
    current.close()
    answers.close()
    say("ended; all that was asked is answered")
    sys.stdout.flush()
    # A thread that still computes a filter would keep the process.
    os._exit(0)


async def _serve(
    server: "_Server",
    current: Current,
    watch_s: float,
    sock: socket.socket,
    ready: Callable[[str], None],
) -> None:
    loop = asyncio.get_running_loop()

    async def reload() -> None:
        with suppress(UserError):  # It has said so.
            if not await current.reload():
                say(f"SIGHUP: {current.served.id} is served already")

    tasks: set[asyncio.Task[None]] = set()

    def on_sighup() -> None:
        tasks.add(task := loop.create_task(reload()))
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, on_sighup)
    watching = loop.create_task(current.watch(watch_s)) if watch_s else None
    sock.listen(server.config.backlog)
    ready(current.served.id)
    await server.serve([sock])
    if watching is not None:
        watching.cancel()


class _Server(uvicorn.Server):
    """uvicorn's, which ends with code 0 when it is asked to end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at SIGTERM and SIGINT; a second one does not wait for answers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        self._service.ending = True
        self.force_exit = self.should_exit
        self.should_exit = True


async def _not_yet(*_: object) -> None:
    raise RuntimeError("nothing is served yet")
