"""``dat-rec serve`` in a process of its own, and requests to it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

LIMIT_S = 60


@dataclass
class Server:
    """A server that answers."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    token: str | None = None

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of an answer; ``body`` is bytes as they are, or JSON."""
        if self.token:
            headers = {"authorization": f"Bearer {self.token}"} | headers
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        kind = answer.headers.get_content_type()
        found = json.loads(text) if kind == "application/json" else text.decode()
        return answer.status, found, {k.lower(): v for k, v in answer.getheaders()}

    def lists(self, **body: Any) -> list[dict[str, Any]]:
        """Lists of users; the request must be answered."""
        status, found, _ = self.ask("POST", "/recommend", body)
        assert status == 200, found
        users: list[dict[str, Any]] = found["users"]
        return users

    def said(self, what: str) -> str:
        """Wait until the server has said it on stderr; the line."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if re.search(what, line):
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{what!r} is not in:\n{self.log.read_text()}")

    def end(self) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)


class Asking:
    """Threads that ask again and again, until the block ends.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.run, args=(number,)) for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def run(self, number: int) -> None:
        """What the thread of this number does until ``stop`` is set."""
        raise NotImplementedError


def until(so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + LIMIT_S
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def serving(
    export: Path, log: Path, *options: str | Path, token: str | None = None
) -> Iterator[Server]:
    """A server of an export, which is ended afterwards."""
    command = [sys.executable, "-m", "dat_rec", "serve", "--export", export, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if token:
        environment["DAT_REC_SERVE_TOKEN"] = token
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command), *map(str, options)], stderr=file, env=environment
        )
    try:
        server = Server(0, process, log, token)
        line = server.said(r"serves export \w+ at http://127\.0\.0\.1:\d+")
        server.port = int(line.rpartition(":")[2])
        yield server
    finally:
        process.kill()
        process.wait(LIMIT_S)
