"""Several workers on one port: one is killed under load, all reload, all end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.serve.server import LIMIT_S, Asking, Server, serving, until
from tests.serve.test_current import TOKEN, put

CONNECTIONS = 16


def processes(server: Server) -> list[int]:
    """Of the workers, as the last line that names them says."""
    lines = re.findall(r"workers, processes ([\d, ]+)", server.log.read_text())
    return [int(one) for one in lines[-1].split(", ")]


def runs(process: int) -> bool:
    """Whether it does, and does not only wait for somebody to take note of its end."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def client_ports(server: Server, process: int) -> set[int]:
    """The other ends of a process's connections, as the kernel has them."""
    sockets = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        if found := re.match(r"socket:\[(\d+)\]", str(file.readlink())):
            sockets.add(found[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [(row[1], row[2]) for row in rows if row[3] == "01" and row[9] in sockets]
    return {int(far[-4:], 16) for near, far in ends if int(near[-4:], 16) == server.port}


class Connections(Asking):
    """Connections that stay open, each asking again and again; a broken one is opened anew."""

    def __init__(self, server: Server) -> None:
        super().__init__(CONNECTIONS)
        self.broken: list[int] = []
        self.wrong: list[object] = []
        self.exports: list[str] = []
        self._server = server

    def run(self, _: int) -> None:
        """Ask."""
        while not self.stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=LIMIT_S)
            connection.connect()
            (_, port) = connection.sock.getsockname()
            try:
                while not self.stop.is_set():
                    headers = {"authorization": f"Bearer {TOKEN}"}
                    connection.request("GET", "/recommend/u1?k=3", headers=headers)
                    answer = connection.getresponse()
                    found = json.loads(answer.read())
                    if answer.status != 200:
                        self.wrong.append(found)
                    self.exports.append(found["export"])
                    time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                self.broken.append(port)
            finally:
                connection.close()


def test_of_a_worker_that_is_killed_only_its_own_connections_break(
    others: tuple[Path, Path], tmp_path: Path
) -> None:
    link = tmp_path / "export"
    put(link, others[0])
    options = ("--workers", "2", "--watch-s", "0")
    with serving(link, tmp_path / "log", *options, token=TOKEN) as server:
        server.said("2 workers, processes")
        with Connections(server) as load:
            until(lambda: len(load.exports) >= 10 * CONNECTIONS)
            before = processes(server)
            of_each = [client_ports(server, process) for process in before]
            assert sum(map(len, of_each)) == CONNECTIONS
            killed = max(range(2), key=lambda number: len(of_each[number]))
            begin = time.monotonic()
            os.kill(before[killed], signal.SIGKILL)
            server.said(f"worker {killed + 1}: was killed by signal 9")
            until(lambda: before[killed] not in processes(server))
            assert time.monotonic() - begin < 20
            assert set(load.broken) == of_each[killed]
            assert len(load.broken) == len(of_each[killed])

            # One of them is told to reload, and all do.
            put(link, others[1])
            status, found, _ = server.ask("POST", "/reload")
            assert (status, found["changed"]) == (200, True)
            served = f'dat_rec_export_info{{export="{found["export"]}"}} 2.0'
            until(lambda: served in server.ask("GET", "/metrics")[1])
            # Who asks at once may still be told so by the other one.
            put(link, others[0])
            server.process.send_signal(signal.SIGHUP)
            until(
                lambda: served not in (told := server.ask("GET", "/metrics")[1]) and "} 2.0" in told
            )
            answered = len(load.exports)
        assert not load.wrong
        assert len(load.broken) == len(of_each[killed])
        assert len(set(load.exports)) == 2
        # What the killed one has counted stays in the sums.
        figures = server.ask("GET", "/metrics")[1]
        (count,) = re.findall(r'requests_total{path="/recommend",status="200"} ([\d.]+)', figures)
        assert float(count) >= answered
        alive = processes(server)
        assert server.end() == 0
        assert not any(map(runs, alive))


def children(process: int) -> list[int]:
    """Processes that it has started, the oldest first."""
    return [
        int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def fork_server(server: Server) -> int:
    """The process that workers are forked from."""
    (found,) = (
        one
        for one in children(server.process.pid)
        if b"forkserver" in Path(f"/proc/{one}/cmdline").read_bytes()
    )
    return found


def exports_of(server: Server) -> set[str]:
    """What workers serve: there are two, and one of them answers."""
    return {server.ask("GET", "/health")[1]["export"] for _ in range(30)}


def test_a_reload_reaches_a_worker_that_is_starting(
    others: tuple[Path, Path], tmp_path: Path
) -> None:
    link = tmp_path / "export"
    put(link, others[0])
    with serving(link, tmp_path / "log", "--workers", "2", "--watch-s", "0") as server:
        server.said("2 workers, processes")
        (old,) = exports_of(server)
        forks, before = fork_server(server), processes(server)
        names = Path(f"/proc/{forks}/environ").read_bytes().split(b"\0")
        (figures,) = (one[25:] for one in names if one.startswith(b"PROMETHEUS_MULTIPROC_DIR="))
        os.kill(before[1], signal.SIGKILL)
        # It is held once it has opened the old export, or soon after.
        deadline, new = time.monotonic() + LIMIT_S, None
        while time.monotonic() < deadline:
            new = next((one for one in children(forks) if one not in before), None)
            gauge = Path(figures.decode(), f"gauge_livesum_{new}.db")
            if gauge.exists() and old.encode() in gauge.read_bytes():
                break
        assert new is not None
        os.kill(new, signal.SIGSTOP)
        put(link, others[1])
        server.process.send_signal(signal.SIGHUP)
        server.said("worker 1: .*reload|worker 1: .*export")
        os.kill(new, signal.SIGCONT)
        until(lambda: old not in exports_of(server))


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C in a terminal"])
def test_workers_answer_what_was_asked_before_they_end(
    how: str, others: tuple[Path, Path], tmp_path: Path
) -> None:
    body = json.dumps({"user_ids": ["u1"], "k": 3}).encode()
    found: list[object] = []
    asked = threading.Barrier(7)

    def ask_slowly(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        connection.putrequest("POST", "/recommend")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:5])
        asked.wait(LIMIT_S)
        time.sleep(1)
        connection.send(body[5:])
        found.append(connection.getresponse().status)
        connection.close()

    with serving(others[0], tmp_path / "log", "--workers", "2") as server:
        server.said("2 workers, processes")
        threads = [threading.Thread(target=ask_slowly, args=(server.port,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        asked.wait(LIMIT_S)
        time.sleep(0.2)
        if how == "SIGTERM":
            server.process.send_signal(signal.SIGTERM)
        else:
            # A terminal sends it to all processes of its group.
            group = os.getpgid(server.process.pid)
            reached = [server.process.pid, fork_server(server), *processes(server)]
            for process in reached:
                if os.getpgid(process) == group:
                    os.kill(process, signal.SIGINT)
        assert server.process.wait(LIMIT_S) == 0
        for thread in threads:
            thread.join(LIMIT_S)
        assert found == [200] * 6
        assert "Traceback" not in server.log.read_text()


def test_a_terminal_that_is_closed_leaves_workers_be(
    others: tuple[Path, Path], tmp_path: Path
) -> None:
    with serving(others[0], tmp_path / "log", "--workers", "2") as server:
        server.said("2 workers, processes")
        before = processes(server)
        os.kill(fork_server(server), signal.SIGHUP)
        server.process.send_signal(signal.SIGHUP)
        server.said("worker 2: SIGHUP: .* is served already")
        assert all(map(runs, before))
        assert processes(server) == before
        assert server.ask("GET", "/health")[0] == 200


def test_workers_end_when_whoever_sees_to_them_is_killed(
    others: tuple[Path, Path], tmp_path: Path
) -> None:
    with serving(others[0], tmp_path / "log", "--workers", "2") as server:
        server.said("2 workers, processes")
        alive = processes(server)
        assert server.ask("GET", "/health")[0] == 200
        server.process.kill()
        until(lambda: not any(map(runs, alive)))


@pytest.mark.parametrize("wrong", ["export", "port"])
def test_workers_that_cannot_start_say_so_in_one_line(
    wrong: str, others: tuple[Path, Path], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        export, port, reason = others[0], taken.getsockname()[1], "in use: name others"
        if wrong == "export":
            export, port, reason = tmp_path / "none", 0, "No such file"
        command = [sys.executable, "-m", "dat_rec", "serve", "--export", str(export)]
        command += ["--port", str(port), "--workers", "3"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("dat-rec: error: ")
    assert reason in line
