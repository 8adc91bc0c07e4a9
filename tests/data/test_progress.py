"""A bar that moves with the rows, and threads that end together."""

import threading
import time

import duckdb
import pytest

from dat_rec.data.progress import Progress


@pytest.fixture
def progress() -> Progress:
    return Progress("work", 100)


def test_threads_share_the_work_and_keep_its_order(progress: Progress) -> None:
    together = threading.Barrier(2, timeout=20)

    def work(number: int) -> int:
        if number < 2:
            together.wait()
        progress.add(10)
        return number * number

    assert progress.in_threads(work, range(10), 2) == [number * number for number in range(10)]
    assert progress._bar.n == 100


def test_the_first_failure_ends_all(progress: Progress) -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError("number 1")
        while True:  # until the bar says that it is over
            progress.add(0)
            time.sleep(0.01)

    with pytest.raises(ValueError, match="number 1"):
        progress.in_threads(work, range(50), 2)
    assert len(begun) < 10


def test_the_bar_follows_a_statement(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dat_rec.data.progress.POLL_S", 0.02)
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        database.execute("SET threads = 1; CREATE TABLE t AS SELECT range AS x FROM range(4000000)")
        with progress.of_statements(database):
            database.execute("SELECT sum(hash(x::VARCHAR || 'a')) FROM t").fetchall()
    assert 0 < progress._bar.n <= 100


def test_a_thread_whose_start_is_cut_off_is_waited_for(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.3)
        ended.append(number)

    start = threading.Thread.start

    def cut_off(thread: threading.Thread) -> None:
        start(thread)
        time.sleep(0.1)  # the work begins
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cut_off)
        with pytest.raises(KeyboardInterrupt):
            progress.in_threads(work, [0, 1], 2)
    assert ended == [0]
