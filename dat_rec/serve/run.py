"""The server's process: opens the export, listens, reloads, and ends when it is asked to."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import torch
import uvicorn

from dat_rec.errors import UserError
from dat_rec.serve.answers import Answers
from dat_rec.serve.app import Service
from dat_rec.serve.current import Current
from dat_rec.serve.limits import Limits
from dat_rec.serve.metrics import Metrics, say
from dat_rec.serve.protocol import BoundedProtocol
from dat_rec.storage.address import Location

TOKEN = "DAT_REC_SERVE_TOKEN"
"""Environment variable of the token."""
CONNECTIONS = 4096
"""Maximum number of open connections; others are answered with 503."""
KEEP_ALIVE_S = 75
"""Seconds for which a connection may stay idle: longer than balancers keep theirs (60 s), which
would else write into one that is being closed."""
SWITCH_S = 0.0005
"""Seconds after which a thread that computes lets the one that listens have a word."""


def serve(
    export: Location,
    host: str,
    port: int,
    *,
    token: str | None,
    limits: Limits,
    watch_s: float,
    drain_s: float,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and answer what is being asked then.

    Raises:
        UserError: the export cannot be opened, or the port is taken.
    """
    torch.set_num_threads(1)
    # Else a new export would be opened on all cores, beside those who wait for answers.
    pa.set_cpu_count(1)
    sys.setswitchinterval(SWITCH_S)
    metrics = Metrics()
    config = uvicorn.Config(
        _not_yet,
        host,
        port,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )
    with (
        _listening(config) as sock,
        asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
    ):
        current = Current(export, limits.filter_s, metrics)
        answers = Answers(current, limits.waiting, metrics)
        service = Service(current, answers, limits, metrics, token)
        config.app = service.app()
        shown = f"http://{host}:{sock.getsockname()[1]}"
        runner.run(_serve(_Server(config, service), current, watch_s, sock, shown))
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
    shown: str,
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
    say(f"serves export {current.served.id} at {shown}")
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


@contextmanager
def _listening(config: uvicorn.Config) -> Iterator[socket.socket]:
    """The socket, taken before the export is read: a port that is taken is said at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((config.host, config.port))
        except OSError as error:
            raise UserError(
                f"--host {config.host} --port {config.port}: {error.strerror}: name others"
            ) from error
        yield sock


async def _not_yet(*_: object) -> None:
    raise RuntimeError("nothing is served yet")


def read_token(file: Path | None) -> str | None:
    """The token of a file, or else of the environment.

    Raises:
        UserError: the file cannot be read, or the token is not what a header can hold.
    """
    where, token = TOKEN, os.environ.get(TOKEN)
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: {error}: name a file of one line") from error
    if token is None:
        return None
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: write 16 or more letters and digits, as `openssl rand -hex 32`")
    return token
