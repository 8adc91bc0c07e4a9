"""A new export takes the old one's place under load; a damaged one does not; the end is orderly."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from dat_rec.retrieval.recommender import Recommender
from tests.serve.server import LIMIT_S, Asking, Server, serving

RELOADS = int(os.environ.get("DAT_REC_TEST_RELOADS", "6"))
TOKEN = "0123456789abcdef0123"
USERS = [f"u{number}" for number in range(12)]


def put(link: Path, export: Path) -> None:
    """Let the link name another export, at once."""
    new = link.with_name("new")
    new.symlink_to(export)
    new.replace(link)


class Load(Asking):
    """Threads that ask again and again, and keep what is wrong with an answer."""

    def __init__(self, server: Server, expected: dict[str, dict[str, object]]) -> None:
        super().__init__(3)
        self.wrong: list[object] = []
        self.answers: dict[str, int] = dict.fromkeys(expected, 0)
        self._server, self._expected = server, expected

    def run(self, number: int) -> None:
        body = {"user_ids": USERS[number::3], "k": 5}
        if number == 2:
            body |= {"filter": "train_count >= 0", "exclude_seen": True}
        while not self.stop.is_set():
            try:
                status, found, _ = self._server.ask("POST", "/recommend", body)
                expected = self._expected[found["export"]]
                lists = {one["user_id"]: (one["items"], one["scores"]) for one in found["users"]}
                right = all(lists[user] == expected[user, number == 2] for user in lists)
                if status != 200 or len(lists) != 4 or not right:
                    self.wrong.append((status, found))
                self.answers[found["export"]] += 1
            except Exception as error:
                self.wrong.append(error)
                return


def lists_of(export: Path) -> dict[object, object]:
    opened, found = Recommender.open(export), {}
    for user in USERS:
        for seen in (False, True):
            options = {"filter": "train_count >= 0"} if seen else {}
            top = opened.top([user], k=5, exclude_seen=seen, **options)
            found[user, seen] = (top["item_id"].to_pylist(), top["score"].to_pylist())
    return found


def test_reloads_under_load(others: tuple[Path, Path], tmp_path: Path) -> None:
    """By the order of somebody with the token, by SIGHUP, and by a look at the path."""
    link = tmp_path / "export"
    put(link, others[0])
    with serving(link, tmp_path / "log", "--watch-s", "0.3", token=TOKEN) as server:
        first = server.ask("GET", "/health")[1]["export"]
        put(link, others[1])
        assert server.ask("POST", "/reload")[0] == 200
        second = server.ask("GET", "/health")[1]["export"]
        assert first != second
        expected = {first: lists_of(others[0]), second: lists_of(others[1])}
        assert expected[first] != expected[second]
        with Load(server, expected) as load:
            now = 1
            for number in range(RELOADS):
                now = 1 - now
                put(link, others[now])
                wanted = (first, second)[now]
                if number % 3 == 0:
                    assert server.ask("POST", "/reload")[0] == 200
                elif number % 3 == 1:
                    server.process.send_signal(signal.SIGHUP)
                deadline = time.monotonic() + LIMIT_S
                while server.ask("GET", "/health")[1]["export"] != wanted:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        assert not load.wrong
        assert min(load.answers.values()) > RELOADS / 2
        _, figures, _ = server.ask("GET", "/metrics")
        assert f'dat_rec_reloads_total{{result="done"}} {RELOADS + 1}.0' in figures

        # A folder in which a bit has flipped is refused, and what is served goes on.
        shutil.copytree(others[1], tmp_path / "damaged")
        with (tmp_path / "damaged" / "index.faiss").open("r+b") as file:
            file.seek(200)
            byte = file.read(1)[0]
            file.seek(200)
            file.write(bytes([byte ^ 1]))
        put(link, tmp_path / "damaged")
        status, found, _ = server.ask("POST", "/reload")
        assert status == 409
        assert "index.faiss: damaged" in found["error"]
        put(link, tmp_path / "nowhere")
        server.process.send_signal(signal.SIGHUP)
        server.said("refused a new export.*No such file")
        assert server.ask("GET", "/health")[1]["export"] == (first, second)[now]
        assert (
            server.lists(user_ids=["u1"], k=5)[0]["scores"]
            == expected[(first, second)[now]]["u1", False][1]
        )

        # What is served needs its folder no longer: filters, seen items and all.
        body = {"user_ids": ["u1"], "k": 3, "filter": "train_count > 2", "exclude_seen": True}
        before = server.ask("POST", "/recommend", body)
        moved = others[now].with_name("moved")
        others[now].rename(moved)
        try:
            assert (
                server.ask("POST", "/recommend", body | {"filter": "train_count > 2 "})[:2]
                == (before[:2])
            )
        finally:
            moved.rename(others[now])


def test_who_has_asked_is_answered_before_the_end(
    others: tuple[Path, Path], tmp_path: Path
) -> None:
    with serving(others[0], tmp_path / "log") as server:
        found: list[object] = []
        body = {"user_ids": ["u1"] * 200, "k": 50, "per_category": 2}
        asking = threading.Thread(
            target=lambda: found.append(server.ask("POST", "/recommend", body)[0])
        )
        asking.start()
        time.sleep(0.1)
        assert server.end() == 0
        asking.join(LIMIT_S)
        assert found == [200]
        server.said("ended")


def test_what_cannot_be_served_is_said_in_a_line(exported: Path, tmp_path: Path) -> None:
    short = tmp_path / "token"
    short.write_text("short")
    for options, reason in (
        (["--export", tmp_path], "is not an export|No such file"),
        (["--export", exported, "--token-file", short], "write 16 or more letters"),
        (["--export", exported, "--max-k", "0"], "--max-k is 0"),
        (["--export", exported, "--host", "192.0.2.1"], "name others"),
    ):
        command = [sys.executable, "-m", "dat_rec", "serve", "--port", "0", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        assert done.returncode == 2
        *_, line = done.stderr.splitlines()
        assert "Traceback" not in done.stderr
        assert any(one in line for one in reason.split("|")), line
