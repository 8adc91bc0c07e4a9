"""How quickly does ``dat-rec serve`` answer, in time and CPU, and from Python?

    python -m benchmarks.serve --export demo/export [--seconds 20] [--reloads 200]

A server of the export runs in a process of its own, here on all cores. In turn:

- ``closed``: connections ask one after the other, each again when it is answered: the most
  queries/s. Debian's ``wrk`` asks; without it, this is left out;
- ``open``: requests leave at a fixed rate, whether others are answered or not; their time counts
  from when they should have left: what users would see;
- ``reloads``: the same, while the export is replaced again and again by another one;
- ``restart``: seconds from a kill -9 to the first answer of the next process;
- ``python``: ``Recommender.top`` of one user, in this process.

Each result is a JSON line. CPU seconds are the server's own, which count nothing else that the
machine does.
"""

import asyncio
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import Options, parse
from dat_rec.retrieval.recommender import Recommender

TOKEN = "benchmark-0123456789"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Queries/s, latency and reloads of a server, and one user from Python."""

    export: Path
    """An export."""
    other: Path | None = None
    """Another export of the same users, for reloads; without it, they are left out."""
    k: int = 100
    """Number of items in a list."""
    seconds: float = 20.0
    """Seconds of each load."""
    rate: float = 500.0
    """Requests a second of the open load."""
    connections: int = 8
    """Connections of the closed load."""
    reloads: int = 200
    """How often the export is replaced."""
    workers: int = 1
    """Number of processes that serve."""


@dataclass
class Server:
    """A server that answers."""

    port: int
    process: subprocess.Popen[bytes]
    serving: list[int]
    """Processes that answer."""

    def cpu_s(self) -> float:
        """CPU seconds of its processes until now."""
        stats = [Path(f"/proc/{process}/stat").read_text() for process in self.serving]
        fields = [stat.rpartition(")")[2].split() for stat in stats]
        return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS

    def export(self) -> str:
        """Id of the export that it serves."""
        return str(json.loads(self.get("/health"))["export"])

    def get(self, path: str, method: str = "GET") -> bytes:
        """An answer, which must be none of an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers={"authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status == 200, content
        return content


@contextmanager
def serving(export: Path, workers: int = 1) -> Iterator[Server]:
    """A server of an export."""
    command = [sys.executable, "-m", "dat_rec", "serve", "--export", str(export), "--port", "0"]
    command += ["--workers", str(workers)]
    environment = os.environ | {"DAT_REC_SERVE_TOKEN": TOKEN}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert "serves export" in line, line
        port, processes = int(line.rpartition(":")[2]), [process.pid]
        if workers > 1:
            line = process.stderr.readline().decode()
            processes = [int(one) for one in line.rpartition("processes ")[2].split(", ")]
        yield Server(port, process, processes)
    finally:
        process.kill()
        process.wait()


def closed(server: Server, users: list[Any], arguments: Arguments) -> dict[str, Any]:
    """Queries/s of connections that ask again and again, by wrk."""
    script = (
        f"local users = {{{', '.join(json.dumps(user) for user in users[:5000])}}}\n"
        "request = function() return wrk.format('GET', '/recommend/' .. "
        f"users[math.random(#users)] .. '?k={arguments.k}') end\n"
        f"wrk.headers['Authorization'] = 'Bearer {TOKEN}'\n"
        "done = function(s, l) io.write(string.format('%d %d %d %d %f\\n', s.requests, "
        "l:percentile(50), l:percentile(99), s.errors.status + s.errors.timeout, s.duration)) end\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        connections = str(arguments.connections)
        length = f"{max(1, round(arguments.seconds))}s"
        command = ["wrk", "-t1", "-c", connections, "-d", length, "-s", file.name]
        before = server.cpu_s()
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}"], capture_output=True, check=True
        )
        cpu_s = server.cpu_s() - before
    requests, p50, p99, errors, duration = map(float, done.stdout.split()[-5:])
    return {
        "queries_per_s": requests / (duration / 1e6),
        "p50_ms": p50 / 1000,
        "p99_ms": p99 / 1000,
        "errors": errors,
        "cpu_ms_each": cpu_s / max(1, requests) * 1000,
    }


async def _open_load(
    server: Server, users: list[Any], arguments: Arguments, until: Callable[[float], bool]
) -> tuple[list[float], Counter[str], Counter[str]]:
    """Milliseconds of requests at a fixed rate, what was wrong, and answers by export."""
    times: list[float] = []
    wrong: Counter[str] = Counter()
    exports: Counter[str] = Counter()
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    drawn = random.Random(0)

    async def one(due: float) -> None:
        try:
            while free:
                reader, writer = free.pop()
                if not reader.at_eof():  # As those are that were idle for too long.
                    break
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            user = drawn.choice(users)
            head = f"GET /recommend/{user}?k={arguments.k} HTTP/1.1\r\nhost: x\r\n"
            writer.write(f"{head}authorization: Bearer {TOKEN}\r\n\r\n".encode())
            headers = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", headers)
            assert found is not None
            body = await reader.readexactly(int(found[1]))
            times.append((time.perf_counter() - due) * 1000)
            if headers[9:12] != b"200":
                wrong[headers[9:12].decode()] += 1
                return
            answer = json.loads(body)
            exports[answer["export"]] += 1
            if len(answer["users"][0]["items"]) != arguments.k:
                wrong["length"] += 1
            free.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError) as error:
            wrong[type(error).__name__] += 1

    begin, number = time.perf_counter(), 0
    tasks: set[asyncio.Task[None]] = set()
    while not until(time.perf_counter() - begin):
        due = begin + number / arguments.rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    return times, wrong, exports


def open_load(server: Server, users: list[Any], arguments: Arguments) -> dict[str, Any]:
    """Latency at a fixed rate."""
    before = server.cpu_s()
    times, wrong, _ = asyncio.run(
        _open_load(server, users, arguments, lambda passed: passed >= arguments.seconds)
    )
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return {
        "rate_per_s": arguments.rate,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "wrong": dict(wrong),
        "cpu_ms_each": (server.cpu_s() - before) / len(times) * 1000,
    }


def reloads(arguments: Arguments, users: list[Any], work: Path) -> dict[str, Any]:
    """Replace the export again and again under an open load."""
    assert arguments.other is not None
    link, places = work / "export", [arguments.export.resolve(), arguments.other.resolve()]
    link.symlink_to(places[0])
    number = arguments.reloads
    with serving(link, arguments.workers) as server:
        changes: list[float] = []

        def change() -> bool:
            for turn in range(1, number + 1):
                new = work / "new"
                new.symlink_to(places[turn % 2])
                new.replace(link)
                before = time.perf_counter()
                server.get("/reload", "POST")
                changes.append(time.perf_counter() - before)
            return True

        async def both() -> tuple[list[float], Counter[str], Counter[str]]:
            changing = asyncio.get_running_loop().run_in_executor(None, change)
            return await _open_load(server, users, arguments, lambda _: changing.done())

        times, wrong, exports = asyncio.run(both())
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "reloads": len(changes),
        "reload_s": float(np.median(changes)),
        "answers": dict(exports),
        "wrong": dict(wrong),
        "p50_ms": p50,
        "p99_ms": p99,
    }


def restart(arguments: Arguments, user: Any) -> dict[str, Any]:
    """Seconds from a kill to the first answer of the next process."""
    with serving(arguments.export, arguments.workers) as server:
        server.get(f"/recommend/{user}?k={arguments.k}")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    begin = time.perf_counter()
    with serving(arguments.export, arguments.workers) as server:
        server.get(f"/recommend/{user}?k={arguments.k}")
        return {"seconds": time.perf_counter() - begin, "cpu_s": server.cpu_s()}


def python(arguments: Arguments) -> dict[str, Any]:
    """Milliseconds of one user's list, of users who were asked about before, and who were not."""
    recommender = Recommender.open(arguments.export).hold()
    users = recommender.user_ids.to_pylist()
    random.Random(0).shuffle(users)
    found: dict[str, Any] = {}
    for name in ("first", "again"):
        times, begin = [], time.process_time()
        for user in users[: 20 if arguments.smoke else 1000]:
            before = time.perf_counter()
            recommender.top([user], k=arguments.k)
            times.append((time.perf_counter() - before) * 1000)
        cpu_ms = (time.process_time() - begin) / len(times) * 1000
        found[name] = {"p50_ms": float(np.median(times)), "cpu_ms": cpu_ms}
    return found


def main() -> None:
    """Measure each, and report a line for it."""
    arguments = parse(Arguments)
    if arguments.smoke:
        arguments = replace(arguments, seconds=1.0, rate=50.0, reloads=3, k=5)
    opened = Recommender.open(arguments.export)
    users = opened.user_ids.to_pylist()
    facts = {"items": len(opened.item_ids), "k": arguments.k, "workers": arguments.workers}
    del opened
    with serving(arguments.export, arguments.workers) as server:
        if shutil.which("wrk"):
            result = closed(server, users, arguments)
            arguments.report("serve", {"measured": "closed", **facts, **result})
        result = open_load(server, users, arguments)
        arguments.report("serve", {"measured": "open", **facts, **result})
    if arguments.other is not None:
        with tempfile.TemporaryDirectory() as work:
            result = reloads(arguments, users, Path(work))
        arguments.report("serve", {"measured": "reloads", **facts, **result})
    result = restart(arguments, users[0])
    arguments.report("serve", {"measured": "restart", **facts, **result})
    arguments.report("serve", {"measured": "python", **facts, **python(arguments)})


if __name__ == "__main__":
    main()
