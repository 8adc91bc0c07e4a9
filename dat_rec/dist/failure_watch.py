"""Watch the other ranks from threads, and end this process where its main thread cannot.

Two daemon threads run beside training, each with a connection of its own to the store:

- the listener beats for this rank, answers roll calls, and looks every ``POLL_S`` for a published
  failure or a rank without heartbeat. It then gives the main thread ``GRACE_S`` to end by itself.
- the guard ends the process if the listener stands still, because the store does not answer, or if
  SIGTERM came while another rank is missing, for which the main thread waits in a collective.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from dat_rec.dist import first_failure
from dat_rec.dist.call_with_timeout import call_with_timeout
from dat_rec.dist.failure_report import FailureReporter
from dat_rec.dist.first_failure import ranks_died, ranks_lost_touch, store_lost
from dat_rec.dist.heartbeat import Heartbeat
from dat_rec.dist.roll_call import AFTER_FAILURE, BEFORE_STOP
from dat_rec.errors import STOPPED, Failure, FailureKind, leave_code

T = TypeVar("T")
POLL_S = 0.5
"""Seconds between two looks at the store."""
GRACE_S = 10.0
"""Seconds in which a rank that knows of a failure must have ended by itself."""
SHORT_GRACE_S = 1.0
"""The same where the main thread waits for a rank that is gone, and so cannot end by itself."""
STORE_MARGIN_S = 2.0
"""Seconds that the store may take to answer, beyond a roll call's timeout."""
INTERRUPTED = "interrupted"
"""The reason of a rank that Ctrl-C stopped."""


class FailureWatch:
    """Watches from its making to ``close``.

    Args:
        store: shared by all ranks, with keys for this watch alone.
        rank: this process's.
        world_size: number of ranks.
        lost_s: seconds without a sign of life after which a rank, or the store, is given up.
        reporter: writes what this rank knows of a failure.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        lost_s: float,
        reporter: FailureReporter,
    ) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._lost_s = lost_s
        self._reporter = reporter
        self._closed = threading.Event()
        self._looks = 0
        signals, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        # The numbers of signals arrive there at once. Python's own handlers wait until the main
        # thread comes back from a collective.
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        _start(self._listen, _own_connection(store))
        _start(self._guard, _own_connection(store), signals)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._wakeup)

    def publish(self, reason: str, kind: FailureKind = "error") -> Failure | None:
        """Tell the others why this one ends, and give them time to read it.

        Returns:
            The error that another rank had published before; or the death of ranks that did not
            read this one's word, though the store answers. None if there is neither.
        """

        def tell() -> Failure | None:
            first_failure.publish(self._store, self._rank, reason, kind)
            first = first_failure.published(self._store)
            AFTER_FAILURE.answer(self._store, self._rank)
            # Whoever holds the store takes it along when it ends.
            missing = AFTER_FAILURE.missing_ranks(self._store, self._world_size)
            if first and first.kind == "error" and first.rank != self._rank:
                return first
            return ranks_died(missing) if missing else None

        found = _ask_store(tell, AFTER_FAILURE.timeout_s)
        return None if found and found.kind == "lost" else found

    def explain(self) -> Failure:
        """Return what happened on another rank, after communication broke on this one."""

        def call() -> Failure:
            AFTER_FAILURE.call(self._store, self._rank)
            return self._roll_call(self._store)

        return _ask_store(call, AFTER_FAILURE.timeout_s)

    def _listen(self, store: dist.Store) -> None:
        heartbeat = Heartbeat(self._rank, self._world_size, self._lost_s)
        grace_s = GRACE_S
        while not self._closed.wait(POLL_S):
            try:
                self._looks += 1
                if BEFORE_STOP.is_called(store):
                    BEFORE_STOP.answer(store, self._rank)
                failure = first_failure.published(store)
                if heartbeat.beat(store):
                    AFTER_FAILURE.call(store, self._rank)
                    grace_s = SHORT_GRACE_S
                if failure is None and not AFTER_FAILURE.is_called(store):
                    continue
                AFTER_FAILURE.answer(store, self._rank)
                failure = failure or self._roll_call(store)
            except (RuntimeError, OSError) as error:
                failure = store_lost(error)
            # The main thread ends by itself where it can: with an error of its own, and in order.
            if not self._closed.wait(grace_s):
                self._exit(failure)
            return

    def _guard(self, store: dist.Store, signals: int) -> None:
        still_s, looks = 0.0, 0
        asked = False
        while not self._closed.is_set():
            ready, _, _ = select.select([signals], [], [], POLL_S)
            if ready and signal.SIGTERM in os.read(signals, 64) and not asked:
                asked = True
                failure = self._missing_before_stop(store)
                if failure is not None and not self._closed.wait(SHORT_GRACE_S):
                    self._exit(failure)
            # Counted in turns of this thread, which may wait for the interpreter as long as the
            # listener does.
            still_s = still_s + POLL_S if self._looks == looks else 0.0
            looks = self._looks
            if still_s > self._lost_s and not self._closed.wait(SHORT_GRACE_S):
                self._exit(store_lost())
        os.close(signals)

    def _missing_before_stop(self, store: dist.Store) -> Failure | None:
        """Return what keeps this rank from stopping in order; None if all ranks are present."""

        def call() -> Failure | None:
            BEFORE_STOP.call(store, self._rank)
            missing = BEFORE_STOP.missing_ranks(store, self._world_size)
            # A rank that has told why it ended did not die.
            return (first_failure.published(store) or ranks_died(missing)) if missing else None

        return _ask_store(call, BEFORE_STOP.timeout_s)

    def _roll_call(self, store: dist.Store) -> Failure:
        missing = AFTER_FAILURE.missing_ranks(store, self._world_size)
        if failure := first_failure.published(store):
            return failure
        return ranks_died(missing) if missing else ranks_lost_touch()

    def _exit(self, failure: Failure) -> None:
        """End this process at once, with the failure on stderr and in the run's folder."""
        advice = self._reporter.how_to_go_on()
        told = f"dat-rec: rank {self._rank}: stopped: {failure}: {advice}"
        lines = [told, self._reporter.report(failure)]
        print("\n".join(filter(None, lines)), file=sys.stderr, flush=True)
        # A stop that was asked for is no failure, whatever delays this rank (its curves, say).
        asked = failure.kind == "stopped" and failure.reason != INTERRUPTED
        code = STOPPED if asked else 1
        leave_code(code)
        os._exit(code)


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _own_connection(store: dist.Store) -> dist.Store:
    """Return the same store for another thread: a connection answers one question at a time."""
    clone: dist.Store = store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it
    return clone


def _ask_store(ask: Callable[[], T], timeout_s: float) -> T | Failure:
    """Return what ``ask`` learns from the store, or that the store is lost.

    A store whose process is stopped never answers.
    """

    def run() -> T | Failure:
        try:
            return ask()
        except (RuntimeError, OSError) as error:
            return store_lost(error)

    try:
        return call_with_timeout(run, timeout_s + STORE_MARGIN_S)
    except TimeoutError:
        return store_lost()
