"""Bad input is refused with the reason, in a line of JSON; nothing ends the server."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.server import Server, serving

SECONDS = float(os.environ.get("DAT_REC_TEST_RUBBISH_S", "3"))
EXAMPLES = os.environ.get("DAT_REC_TEST_EXAMPLES", "15")
TOKEN = "0123456789abcdef0123"

REFUSED: list[tuple[Any, str]] = [
    (b"", "Invalid JSON"),
    (b"{", "Invalid JSON"),
    (b"[]", "Input should be an object"),
    (b'{"user_ids": [NaN]}', "user_ids"),
    (b'{"user_ids": ["\\ud800"]}', "Invalid JSON"),
    (b"\xff\xfe", "Invalid JSON"),
    (b"[" * 100_000, "Invalid JSON"),
    ({}, "give one of them"),
    ({"user_ids": ["u001"], "queries": []}, "give one of them"),
    ({"user_ids": "u001"}, "user_ids"),
    ({"user_ids": [1]}, "user_ids"),
    ({"user_ids": [None]}, "user_ids"),
    ({"user_ids": ["u001", 1]}, "user_ids: give a list of whole numbers of 64 bits, or one of"),
    ({"user_ids": [2**70]}, "user_ids"),
    ({"user_ids": ["u"] * 51}, "this server allows 50"),
    ({"user_ids": ["u001"], "k": 0}, "k: "),
    ({"user_ids": ["u001"], "k": 37}, "at most the 36 items"),
    ({"user_ids": ["u001"], "k": 501}, "this server allows 500"),
    ({"user_ids": ["u001"], "k": 2.5}, "k: "),
    ({"user_ids": ["u001"], "k": True}, "k: "),
    ({"user_ids": ["u001"], "size": 3}, "size: "),
    ({"user_ids": ["u001"], "exclude": [3]}, "the export's item_id is string"),
    ({"user_ids": ["u001"], "exclude_seen": "yes"}, "exclude_seen"),
    ({"user_ids": ["u001"], "available": [3]}, "available"),
    ({"user_ids": ["u001"], "filter": "price <"}, "filter 'price <': "),
    ({"user_ids": ["u001"], "filter": "nothing > 3"}, "items have item_id"),
    ({"user_ids": ["u001"], "filter": "random() > .5"}, "function random"),
    ({"user_ids": ["u001"], "filter": "true; DROP TABLE x"}, "filter 'true; DROP"),
    ({"user_ids": ["u001"], "filter": "x" * 3000}, "filter: "),
    *(
        ({"user_ids": ["u001"], "filter": deep}, "is nested too deeply: write it flatter")
        for deep in (
            "not " * 490 + "true",
            "1" + "+1" * 900 + " > 1",
            "(1+" * 400 + "1" + ")" * 400 + " > 1",
        )
    ),
    (
        {"user_ids": ["u001"], "filter": "(SELECT count(*) FROM read_text('/etc/passwd')) > 0"},
        "not allowed",
    ),
    ({"user_ids": ["u001"], "filter": "len(range(10000000000)) > 0"}, "function range"),
    ({"user_ids": ["u001"], "quotas": {"no column": 3}}, "quotas: no column=3: items have no such"),
    ({"user_ids": ["u001"], "quotas": {"category": 0}}, "quotas"),
    ({"user_ids": ["u001"], "quotas": {"tags": 2}}, "tags"),
    ({"queries": [{"no_feature": 3}]}, "is of no feature"),
    ({"queries": [{"age": "old"}]}, "age"),
    ({"queries": [{"age": float("nan")}]}, "finite"),
    ({"queries": [{"history": "i001"}]}, "history"),
    ({"queries": [{"history": ["i001", 3]}]}, "history"),
    ({"queries": [{"age": {"a": 1}}]}, "queries"),
    ({"queries": [{"face": [1.0]}]}, "face"),
    ({"queries": [{}], "blend_history": True}, "blend_history"),
]


@pytest.mark.parametrize(("body", "reason"), REFUSED)
def test_a_bad_request_is_refused_with_the_reason(server: Server, body: Any, reason: str) -> None:
    status, found, _ = server.ask("POST", "/recommend", body)
    assert status == 400
    assert list(found) == ["error"]
    assert reason in found["error"]
    assert "\n" not in found["error"]
    assert "--" not in found["error"]  # Who asks knows of fields, and of no command.


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/recommend", 405),
        ("DELETE", "/recommend", 405),
        ("POST", "/health/", 404),
        ("GET", "/recommend/u001?k=three", 400),
        ("GET", "/recommend/u001?k=3&k=4", 400),
        ("GET", "/recommend/u001?size=3", 400),
        ("GET", "/recommend/u001?exclude_seen=maybe", 400),
        ("GET", "/recommend/a/b", 404),
        ("POST", "/reload", 403),
        ("POST", "/similar", 400),
    ],
)
def test_a_wrong_path_or_option_is_refused(
    server: Server, method: str, path: str, status: int
) -> None:
    found, answer, _ = server.ask(method, path)
    assert found == status
    assert list(answer) == ["error"]


def test_an_unknown_item_has_no_similar_ones(server: Server) -> None:
    status, found, _ = server.ask("POST", "/similar", {"item_ids": ["i001", "none"], "k": 3})
    assert (status, found["error"]) == (
        400,
        'item_ids: the export has no item "none": leave it out',
    )


def test_bodies_are_bounded(server: Server) -> None:
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\n"
    told = head + b"content-length: 1048577\r\n\r\n"
    chunks = (b"40000\r\n%s\r\n" % bytes(2**18)) * 4 + b"10\r\n%s\r\n" % bytes(16)
    untold = head + b"transfer-encoding: chunked\r\n\r\n" + chunks
    for request in (told, untold):
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            with suppress(OSError):  # The server hangs up before it has read all.
                connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert server.ask("POST", "/recommend", b"{}", **{"content-encoding": "gzip"})[0] == 415


def test_the_page_and_the_document_load_nothing_from_elsewhere(server: Server) -> None:
    _, page, headers = server.ask("GET", "/")
    assert headers["content-type"].startswith("text/html")
    assert "<script" not in page
    assert "http" not in page
    _, found, _ = server.ask("GET", "/openapi.json")
    for path in found["paths"]:
        assert path in page
    assert (
        found["components"]["schemas"]["Recommend"]["properties"]["k"]["anyOf"][0]["maximum"] == 500
    )


def test_health_and_metrics(server: Server) -> None:
    status, found, _ = server.ask("GET", "/health")
    assert status == 200
    assert (found["live"], found["ready"], found["items"], found["users"]) == (True, True, 36, 40)
    _, figures, _ = server.ask("GET", "/metrics")
    assert f'dat_rec_export_info{{export="{found["export"]}"}} 1.0' in figures
    assert 'dat_rec_requests_total{path="/health",status="200"}' in figures
    assert 'dat_rec_request_seconds_bucket{le="0.001",path="/health"}' in figures


def test_a_token_is_asked_for_all_but_health(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path / "log", token=TOKEN) as server:
        assert server.ask("GET", "/recommend/u001?k=2")[0] == 200
        assert server.ask("POST", "/reload")[1]["changed"] is False
        for wrong in ("Bearer wrong", TOKEN, f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x"):
            status, found, headers = server.ask("GET", "/recommend/u001?k=2", authorization=wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert "token" in found["error"]
        server.token = None
        assert server.ask("GET", "/health")[0] == 200
        for path in ("/metrics", "/openapi.json", "/", "/nothing"):
            assert server.ask("GET", path)[0] == 401


def test_too_many_requests_are_sent_away(exported: Path, tmp_path: Path) -> None:
    body = {"user_ids": [f"u{number:03}" for number in range(30)], "k": 30, "filter": "true"}
    with (
        serving(exported, tmp_path / "log", "--max-waiting", "1") as server,
        ThreadPoolExecutor(16) as threads,
    ):
        answers = list(threads.map(lambda _: server.ask("POST", "/recommend", body), range(48)))
        statuses = [status for status, _, _ in answers]
        assert set(statuses) == {200, 503}
        assert {headers["retry-after"] for status, _, headers in answers if status == 503} == {"1"}
        assert server.ask("POST", "/recommend", body)[0] == 200


def rubbish(rng: np.random.Generator) -> bytes:
    """What is no request, or nearly one."""
    good = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 40\r\n\r\n"
    good += b'{"user_ids": ["u001"], "k": 3, "x": 111}'
    kind = rng.integers(0, 8)
    if kind == 0:
        return rng.bytes(int(rng.integers(1, 400)))
    if kind == 1:
        return good[: rng.integers(1, len(good))]
    if kind == 2:
        changed = bytearray(good)
        for place in rng.integers(0, len(changed), int(rng.integers(1, 6))):
            changed[place] = rng.integers(0, 256)
        return bytes(changed)
    if kind == 3:
        return b"GET /recommend/%s HTTP/1.1\r\nhost: x\r\n\r\n" % rng.bytes(20).hex().encode()
    if kind == 4:
        return b"GET /health HTTP/1.1\r\n" + b"a: " + b"b" * 2**17 + b"\r\n\r\n"
    if kind == 5:
        return b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    if kind == 6:
        return b"POST /similar HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n"
    return b"GET http://[::1 HTTP/1.1\r\nhost: x\r\n\r\n" + good * 3


def test_rubbish_gets_no_answer_but_a_reason(server: Server) -> None:
    rng = np.random.default_rng(int(SECONDS))
    deadline, statuses = time.monotonic() + SECONDS, set()
    while time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.settimeout(0.2)
            sent = rubbish(rng)
            answer = b""
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(2**16):
                    answer += part
            except OSError:
                pass  # The server has hung up, or waits for more.
        for line in answer.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                statuses.add(int(line.split(b" ")[1]))
        if answer and b" 200 " not in answer:
            assert b'{"error"' in answer, (sent, answer)
    assert statuses <= {200, 400, 404, 405, 408, 413, 431}, statuses
    assert statuses >= {400, 431}
    assert server.ask("GET", "/health")[0] == 200
    assert "bug" not in server.log.read_text()


def test_what_the_document_says_is_true(server: Server, tmp_path: Path) -> None:
    """schemathesis asks all that it allows, and much that it does not."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    # 413 is a rejection too, which schemathesis does not expect.
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(
        "[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 403, 404, 405, 413]\n"
    )
    command = [Path(sys.executable).parent / "schemathesis", "--config-file", settings, "run"]
    command += [
        "--max-examples",
        EXAMPLES,
        "--checks",
        f"{checks},response_schema_conformance,negative_data_rejection",
    ]
    command += ["--mode", "all", "--seed", "1", "--no-color"]
    done = subprocess.run(
        [*map(str, command), f"http://127.0.0.1:{server.port}/openapi.json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert "bug" not in server.log.read_text()
