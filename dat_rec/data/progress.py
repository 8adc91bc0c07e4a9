"""Work on many rows in, a bar on stderr that moves with them: in SQL, and in threads."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import duckdb
from tqdm import tqdm

T = TypeVar("T")
POLL_S = 1.0
"""Seconds until a stage has a bar, and between two questions for the progress of a statement."""


class _StoppedError(Exception):
    """Another thread has failed, or the user has pressed Ctrl-C."""


class Progress:
    """The bar of one stage.

    Args:
        stage: its name, for the user.
        total: how much there is to do.
        unit: of what.
    """

    def __init__(self, stage: str, total: int, unit: str = " rows") -> None:
        self._bar = tqdm(
            total=total,
            desc=stage,
            unit=unit,
            unit_scale=True,
            delay=POLL_S,
            file=sys.stderr,
        )
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def add(self, rows: int) -> None:
        """Move the bar on, from any thread.

        Raises:
            _StoppedError: the work has to end.
        """
        if self._stopped.is_set():
            raise _StoppedError
        with self._lock:
            self._bar.update(rows)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    @contextmanager
    def of_statements(self, database: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Show the share of each SQL statement in the block that is done."""
        ended = threading.Event()

        def poll() -> None:
            while not ended.wait(POLL_S):
                share = max(0.0, database.query_progress()) / 100
                with self._lock:
                    self._bar.n = round((self._bar.total or 0) * min(share, 1.0))
                    self._bar.refresh()

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def in_threads(self, work: Callable[[int], T], numbers: Sequence[int], threads: int) -> list[T]:
        """``work`` of every number, several at a time; the first failure ends all.

        None is at work any more when this returns or raises.
        """
        changed, running = threading.Condition(), 0

        def counted(number: int) -> T:
            nonlocal running
            with changed:
                if self._stopped.is_set():
                    raise CancelledError
                running += 1
            try:
                return work(number)
            finally:
                with changed:
                    running -= 1
                    changed.notify_all()

        with ThreadPoolExecutor(threads) as pool:
            futures: list[Future[T]] = []
            try:
                for number in numbers:
                    futures.append(pool.submit(counted, number))
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = [f for f in futures if f.done() and f.exception() is not None]
                return [future.result() for future in failed or futures]
            except BaseException:
                with changed:
                    self._stopped.set()
                for future in futures:
                    future.cancel()
                # The pool does not know of a thread whose start ^C cut off.
                with changed:
                    changed.wait_for(lambda: running == 0)
                raise
