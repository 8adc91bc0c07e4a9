"""Retry work on a disk that is full or absent for a while.

Shared file systems refuse for seconds or minutes what they do otherwise: a quota is exceeded until
somebody removes files, a server restarts, a name that one host has written is not yet seen by
another. None of it is worth a run.
"""

import errno
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TRANSIENT = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT}
    | {errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO}
)
"""Errors that may pass: a full disk, a quota, an input/output error, a stale handle, "try again",
and those of a server that is away."""
UNSEEN = TRANSIENT | {errno.ENOENT}
"""The same for a file that rank 0 has seen: network file systems show it later on other hosts."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0
"""Seconds between two tries, minimum and maximum; each wait is twice the one before."""
READ_S = 60.0
"""Maximum seconds until a file must be seen and read."""
SLOW_S = 60.0
"""Seconds after which a rank says what it is still doing."""


class Patience:
    """For how long to try again; another thread may change it.

    The time runs from the first try that is refused: work that only takes long spends none of it.

    Args:
        seconds: maximum time; without end by default.
    """

    def __init__(self, seconds: float = float("inf")) -> None:
        self._changed = threading.Condition()
        self.end_after(seconds)

    def end_after(self, seconds: float) -> None:
        """Set the maximum time from the next refusal on; 0: do not try again after it."""
        with self._changed:
            self._seconds = seconds
            self._end: float | None = None
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait, at most until the time is up; return whether to try again after that."""
        with self._changed:
            if self._end is None:
                self._end = time.monotonic() + self._seconds
            left = self._end - time.monotonic()
            if left <= 0:
                return False
            changed = self._changed.wait(min(seconds, left))
            return not changed or self._seconds > 0


def system_error(error: BaseException) -> OSError | None:
    """Return the operating system's error, or that which caused an error for the user; or None."""
    while not isinstance(error, OSError):
        if error.__cause__ is None:
            return None
        error = error.__cause__
    return error


def may_pass(error: BaseException, kinds: frozenset[int] = TRANSIENT) -> bool:
    """Return whether a later try may do what this one could not."""
    found = system_error(error)
    return found is not None and found.errno in kinds


def keep_trying(
    action: Callable[[], T],
    patience: Patience,
    what: str,
    folder: Path,
    kinds: frozenset[int] = TRANSIENT,
    unseen: Patience | None = None,
) -> T:
    """Do ``action`` until it succeeds; after an error that may pass, do it again.

    The first such error, and the success after it, are printed on stderr.

    Args:
        action: can be done again from the start.
        patience: for how long to try again.
        what: for the user: which rank does what.
        folder: whose free space is printed.
        kinds: numbers of the operating system's errors that may pass.
        unseen: for how long to try again if a file of rank 0 is not there yet; None: not at all.

    Raises:
        Exception: the action's, if it does not pass, or not in time.
    """
    begin, wait_s = time.monotonic(), FIRST_WAIT_S
    failed = False
    with told_if_slow(what):
        while True:
            try:
                result = action()
            except Exception as error:
                waiting = patience
                if unseen is not None and may_pass(error, UNSEEN - TRANSIENT):
                    waiting = unseen
                elif not may_pass(error, kinds):
                    raise
                if not failed:
                    say(f"{what}: {reason(error, folder)}: trying again")
                failed = True
                if not waiting.wait(wait_s):
                    raise
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                if failed:
                    say(f"{what}: done, after {time.monotonic() - begin:.0f} s of trying")
                return result


def reason(error: BaseException, folder: Path) -> str:
    """Return an error in a few words, with the free space of the disk."""
    found = system_error(error)
    words = (found and found.strerror) or (str(error).splitlines() or [type(error).__name__])[0]
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        return f"{words[:300]}; {shutil.disk_usage(there).free >> 20} MiB free"
    except OSError:  # which is what has failed
        return words[:300]


@contextmanager
def told_if_slow(what: str) -> Iterator[None]:
    """Print what this rank is doing if the block takes over ``SLOW_S``: the others wait for it."""
    timer = threading.Timer(SLOW_S, lambda: say(f"{what}: {SLOW_S:.0f} s, and not done yet"))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)
