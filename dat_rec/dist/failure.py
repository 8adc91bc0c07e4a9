"""One rank fails or dies: the others stop within seconds, and say which and why.

Left alone, the ranks of a dead one wait in a collective until its time-out, or end with an
error of the network's that names nobody. Keys in the launcher's store prevent it:

- ``failed``: the first failing rank's last words. A thread on every rank looks for them
  twice a second, and ends its process where the main thread hangs.
- ``roll_call``: set by a rank whose communication broke, with no last words to be seen.
- ``alive/R``: every rank's answer to it. Who has not answered is the one that died.
- ``beat/R``: counts while rank R lives. A machine that vanishes breaks no connection, and the
  others would wait for it: the first rank calls the roll when a count stands still, and a rank
  whose store falls silent ends.
- ``census``, ``here/R``: a roll call by a rank that got SIGTERM, which has a consequence only
  where somebody is missing: waiting in a collective, a rank could not heed the signal.
"""

import json
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from dat_rec.errors import (
    STOPPED,
    DiskError,
    Failure,
    FailureKind,
    RankError,
    SharedError,
    StoppedError,
    SupersededError,
    UserError,
    leave_code,
)

LOOK_S = 0.5
"""Between two looks for another rank's last words."""
ANSWER_S = 4.0
"""In which a living rank answers the roll call."""
CENSUS_S = 6.0
"""In which a living rank answers the census; longer, since a wrong "missing" costs steps."""
LOST_S = 15.0
"""Without a sign of life, after which a rank or the store is given up; at most the time-out."""
BEAT_S = 2.0
FOLDER_S = 5.0
"""In which the run's folder takes what a rank that ends leaves there, or never."""
GRACE_S = 10.0
"""In which a rank that knows of a failure must have ended by itself."""
GLOO = re.compile(
    r"(?:Gloo connectFullMesh failed with )?\[[^]]*/gloo/[^]]*:\d+\]|"
    r"Application timeout caused pair closure$"
)
"""How gloo begins its errors, RuntimeErrors like any other: with the place in its own source, but
for one, that of a connection which an earlier time-out has closed."""
OWN_NCCL = re.compile(
    r"nccl(InvalidUsage|InvalidArgument|InternalError|UnhandledCudaError)|"
    r"(invalid usage|invalid argument|internal error|unhandled cuda error)[^\n]*NCCL version"
)
"""What NCCL says where this rank itself is wrong: a GPU of two ranks, say."""
INTERRUPTED = "interrupted"
"""The reason of who was stopped by Ctrl-C."""
MEMORY = re.compile(r"allocate memory|can't start new thread|Resource temporarily unavailable")
"""What errors say that come of too little memory, and are no MemoryError."""


class _MemoryError(UserError):
    """This rank ran out of memory."""


def is_communication_error(error: BaseException) -> bool:
    """Whether an error says that another rank does not answer, rather than what went wrong.

    Its class and origin decide, and no words that a path may hold as well.
    """
    if isinstance(error, dist.DistBackendError):
        return not OWN_NCCL.search(str(error))
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and bool(GLOO.match(str(error)))


def in_short(error: BaseException) -> str:
    """An error's class and first line."""
    line = (str(error).splitlines() or [""])[0][:300]
    # Of the place in gloo's source, that part which is the same on every machine.
    return f"{type(error).__name__}: {re.sub(r'[^ []*/gloo/', 'gloo/', line)}"


@dataclass
class FailureReporter:
    """Where a rank that ends leaves what it knows of the failure, once there is such a place."""

    write: Callable[[Failure], str] | None = None
    """Leaves it; gives a line for the user, or nothing where another rank has told it."""
    begun: bool = True
    """Whether the run has begun: before, what is refused is no failure, and leaves no trace."""
    advice: Callable[[], str] = lambda: "start it again"
    """Says how to go on."""

    def how_to_go_on(self) -> str:
        """What to do after the failure."""
        return _in_time(self.advice) or "start it again"

    def leave(self, failure: Failure, error: BaseException | None = None) -> str:
        """Leave it, and note the line on ``error``, to be printed below it."""
        refused = isinstance(error, UserError) and not isinstance(error, _MemoryError | DiskError)
        if self.write is None:
            return ""
        if not self.begun and (refused or failure.kind == "stopped"):
            return ""
        line = _in_time(partial(self.write, failure)) or ""
        if line and error is not None:
            error.add_note(line)
        return line


def _in_time(action: Callable[[], str]) -> str | None:
    """What ``action`` gives; nothing where the folder that it looks at fails, or hangs."""
    answers: list[str] = []

    def run() -> None:
        # The error that ends this rank says more.
        with suppress(OSError, UserError):
            answers.append(action())

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(FOLDER_S)
    return answers[0] if answers else None


@contextmanager
def fail_together(
    store: dist.Store, rank: int, world_size: int, timeout_s: float, failure_reporter: FailureReporter
) -> Iterator[None]:
    """Watch over the block: a failure in it, here or elsewhere, ends all ranks.

    Args:
        store: where ranks leave words for one another.
        rank: this process's.
        world_size: number of ranks.
        timeout_s: seconds without an answer after which a rank is given up, at most.
        failure_reporter: takes what this rank knows of a failure.

    Raises:
        RankError: another rank failed; names it, and its error.
        UserError: this rank ran out of memory.
    """
    watch = None
    if world_size > 1:
        watch = _Watch(store, rank, world_size, min(LOST_S, timeout_s), failure_reporter)
    try:
        with _memory_errors(), _not_interrupted_while_ending():
            yield
        # Nobody leaves before all are done: a failure after it could not be told.
        if watch:
            dist.barrier()
    except SupersededError:  # the folder is another start's
        raise
    except SharedError as error:
        failure_reporter.leave(Failure("error", None, str(error)), error)
        raise
    except (StoppedError, KeyboardInterrupt) as stop:
        reason = str(stop) or INTERRUPTED
        silent = watch.say(reason, "stopped") if watch else []
        if silent and isinstance(stop, StoppedError):
            # torchrun stops the ranks that live, when one has died.
            failure = _died(silent)
            lost = RankError(f"{failure}: {failure_reporter.how_to_go_on()}")
            failure_reporter.leave(failure, lost)
            raise lost from stop
        failure_reporter.leave(Failure("stopped", None, reason), stop)
        raise
    except BaseException as error:
        if watch and is_communication_error(error):
            failure = replace(watch.explain(), cause=in_short(error))
            lost = RankError(f"{failure}: {failure_reporter.how_to_go_on()}")
            failure_reporter.leave(failure, lost)
            raise lost from error
        user = isinstance(error, UserError | RankError)
        failure = Failure("error", rank, str(error) if user else f"{type(error).__name__}: {error}")
        if watch:
            watch.say(failure.reason)
        failure_reporter.leave(failure, error)
        raise
    finally:
        if watch:
            watch.close()
        if _held:
            signal.signal(signal.SIGTERM, _held.pop())


_held: list[Any] = []
"""What SIGTERM did before a failure, until this rank has told of it."""


@contextmanager
def _not_interrupted_while_ending() -> Iterator[None]:
    """After a failure SIGTERM says nothing new: torchrun stops the ranks that live.

    What it does otherwise, before and after the steps, would take the failure's place.
    """
    try:
        yield
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            _held.append(signal.signal(signal.SIGTERM, signal.SIG_IGN))
        raise


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_communication_error(error):
            raise
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or MEMORY.search(text):
            reason = (text.splitlines() or ["no memory left"])[0][:200]
            raise _MemoryError(
                f"out of memory ({reason}): lower --batch-size or --model.embedding-dim, or use "
                "more ranks"
            ) from error
        raise


class _Watch:
    """Looks for other ranks' words and signs of life, in threads with connections of their own."""

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        lost_s: float,
        failure_reporter: FailureReporter,
    ) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._lost_s = lost_s
        self._last_words = failure_reporter
        self._closed = threading.Event()
        self._looks = 0
        heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        # The numbers of signals: Python's own handlers wait until the main thread comes back
        # from a collective.
        self._told_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        for work, extra in ((self._look, ()), (self._guard, (heard,))):
            threading.Thread(
                target=work, args=(_own_connection(store), *extra), daemon=True
            ).start()

    def _look(self, store: dist.Store) -> None:
        """Answer the others, and look what becomes of them."""
        beats = _Beats(self._rank, self._world_size, self._lost_s)
        grace = GRACE_S
        while not self._closed.wait(LOOK_S):
            try:
                self._looks += 1
                if store.check(["census"]):
                    store.set(f"here/{self._rank}", "")
                words = _words(store)
                if beats.stop(store):
                    # Who waits for a machine that is gone does not end by itself.
                    store.set("roll_call", "")
                    grace = 1.0
                if words is None and not store.check(["roll_call"]):
                    continue
                store.set(f"alive/{self._rank}", "")
                failure = words or self._roll_call(store)
            except (RuntimeError, OSError) as error:
                failure = self._lost(error)
            # The main thread ends by itself where it can: with its own words, and in order.
            if not self._closed.wait(grace):
                self._exit(failure)
            return

    def _guard(self, store: dist.Store, heard: int) -> None:
        """End the process where it cannot end itself: see ``beat`` and ``census`` above."""
        still, looks = 0.0, 0
        begun = False
        while not self._closed.is_set():
            ready, _, _ = select.select([heard], [], [], LOOK_S)
            if ready and signal.SIGTERM in os.read(heard, 64) and not begun:
                begun = True
                failure = self._in_time(lambda: self._census(store), CENSUS_S)
                if failure.reason and not self._closed.wait(1.0):
                    self._exit(failure)
            # In turns of this thread, which may wait for the interpreter as long as that one.
            still = still + LOOK_S if self._looks == looks else 0.0
            looks = self._looks
            if still > self._lost_s and not self._closed.wait(1.0):
                self._exit(self._lost())
        os.close(heard)

    def _census(self, store: dist.Store) -> Failure:
        """What keeps this rank from stopping in order; no reason where all ranks answer."""
        store.set("census", "")
        store.set(f"here/{self._rank}", "")
        silent = self._wait_for_all(store, "here", CENSUS_S)
        if not silent:
            return Failure("lost", None, "")
        return _words(store) or _died(silent)  # who has told why it ended did not die

    def _exit(self, failure: Failure) -> None:
        advice = self._last_words.how_to_go_on()
        told = f"dat-rec: rank {self._rank}: stopped: {failure}: {advice}"
        lines = [told, self._last_words.leave(failure)]
        print("\n".join(filter(None, lines)), file=sys.stderr, flush=True)
        # What still keeps this rank, its curves say, makes no failure of an end that was asked for.
        asked = failure.kind == "stopped" and failure.reason != INTERRUPTED
        code = STOPPED if asked else 1
        leave_code(code)
        os._exit(code)

    def close(self) -> None:
        self._closed.set()
        signal.set_wakeup_fd(self._told_before)
        os.close(self._told)

    def say(self, message: object, kind: FailureKind = "error") -> list[int]:
        """Leave this rank's last words for the others, and time to read them.

        Returns:
            The ranks that did not read them, though the store answers.
        """
        words = json.dumps({"rank": self._rank, "message": str(message)[:2000], "kind": kind})
        silent: list[int] = []

        def leave() -> Failure:
            self._store.compare_set("failed", "", words)
            self._store.set(f"alive/{self._rank}", "")
            # Whoever holds the store takes it along when it ends.
            silent.extend(self._wait_for_all(self._store))
            return Failure("error", self._rank, "")

        self._in_time(leave)
        return silent

    def explain(self) -> Failure:
        """What happened on another rank, after communication broke on this one."""

        def call() -> Failure:
            self._store.set("roll_call", "")
            self._store.set(f"alive/{self._rank}", "")
            return self._roll_call(self._store)

        return self._in_time(call)

    def _in_time(self, ask: Callable[[], Failure], seconds: float = ANSWER_S) -> Failure:
        """What ``ask`` learns from the store; a store whose process is stopped never answers."""
        answers: list[Failure] = []

        def run() -> None:
            try:
                answers.append(ask())
            except (RuntimeError, OSError) as error:
                answers.append(self._lost(error))

        asking = threading.Thread(target=run, daemon=True)
        asking.start()
        asking.join(seconds + 2)
        return answers[0] if answers else self._lost()

    def _roll_call(self, store: dist.Store) -> Failure:
        silent = self._wait_for_all(store)
        if words := _words(store):
            return words
        if not silent:
            reason = "the ranks lost touch with one another (is the network cut?)"
            return Failure("lost", None, reason)
        return _died(silent)

    def _wait_for_all(
        self, store: dist.Store, answer: str = "alive", seconds: float = ANSWER_S
    ) -> list[int]:
        """The ranks that do not answer in time."""
        deadline = time.monotonic() + seconds
        while True:
            ranks = range(self._world_size)
            silent = [rank for rank in ranks if not store.check([f"{answer}/{rank}"])]
            if not silent or time.monotonic() > deadline:
                return silent
            time.sleep(0.1)

    def _lost(self, error: BaseException | None = None) -> Failure:
        return Failure(
            "lost",
            0,
            "the store where the ranks meet does not answer: rank 0 or its host, which hold it, "
            "died (killed, or out of memory) or hangs",
            in_short(error) if error is not None else "",
        )


class _Beats:
    """This rank's own sign of life, and the first rank's view of all."""

    def __init__(self, rank: int, world_size: int, lost_s: float) -> None:
        self._rank = rank
        self._keys = [f"beat/{each}" for each in range(world_size)]
        self._lost_s = lost_s
        self._count = 0
        self._next = time.monotonic()
        self._seen: list[bytes] = [b""] * world_size
        self._still_s = [0.0] * world_size

    def stop(self, store: dist.Store) -> bool:
        """Beat; whether, to the first rank, another has fallen silent."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + BEAT_S
        self._count += 1
        store.set(self._keys[self._rank], str(self._count))
        if self._rank or not store.check(self._keys):
            return False
        found = store.multi_get(self._keys)
        for rank, (old, new) in enumerate(zip(self._seen, found, strict=True)):
            self._still_s[rank] = self._still_s[rank] + BEAT_S if old == new else 0.0
        self._seen = found
        return max(self._still_s) > self._lost_s


def _own_connection(store: dist.Store) -> dist.Store:
    """The same store, for another thread: one connection answers one question at a time."""
    clone: dist.Store = store.clone()  # type: ignore[attr-defined]  # torch's stubs lack it
    return clone


def _died(silent: Sequence[int]) -> Failure:
    """The ranks that do not answer, though the store does."""
    who = f"rank{'s' if len(silent) > 1 else ''} {', '.join(map(str, silent))}"
    reason = f"{who} died without a word (killed, or out of memory) or hangs"
    return Failure("died", silent[0], reason)


def _words(store: dist.Store) -> Failure | None:
    if not store.check(["failed"]):
        return None
    words = json.loads(store.get("failed"))
    return Failure(words["kind"], words["rank"], words["message"])
