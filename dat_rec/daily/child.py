"""Do a piece of work in a process of its own, which ends with this one.

The process is forked, so that all that this one has imported is there at once, and what the work
holds in memory is gone after it. If this process is killed, so is that one: nobody is left who
writes.
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from dat_rec.errors import RankError, StoppedError, UserError

T = TypeVar("T")
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent has died."""
PATIENCE_S = 5.0
"""Seconds that a child has to end after Ctrl-C."""
STOPPED = "stopped by SIGTERM: what had been finished is whole: start the same command again"


def in_child(work: Callable[[], T], log: Path, what: str) -> T:
    """Do ``work`` in a process of its own, and return what it returns.

    SIGTERM is passed on: training writes a checkpoint, other work just ends.

    Args:
        work: what it returns, or raises for the user, must pickle.
        log: file to which all that it prints is added.
        what: for messages.

    Raises:
        UserError: the work's own.
        OSError, ImportError: the work's own: a full disk, a package that is missing.
        StoppedError: SIGTERM came.
        RankError: it was killed.
        RuntimeError: it has a bug; the traceback stands in the log.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    process = context.Process(target=_work, args=(os.getpid(), work, log, sender))
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        with suppress(ProcessLookupError, AttributeError):
            process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        process.start()
        sender.close()
        if stopped:
            process.terminate()
        found = _received(receiver)
        process.join()
    except KeyboardInterrupt:
        # A terminal has told the child too; whoever told this process alone has not.
        process.join(PATIENCE_S)
        process.terminate()
        process.join()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        receiver.close()
    if found is not None:
        value, error = found
        if isinstance(error, StoppedError):
            # What it advises is for whoever had given that command.
            raise StoppedError(STOPPED) from error
        if error is not None:
            raise error
        if not stopped:
            return value  # type: ignore[no-any-return]
    if stopped:
        raise StoppedError(STOPPED)
    code = process.exitcode or 0
    if code < 0:
        raise RankError(
            f"{what}: was killed by {signal.Signals(-code).name} (out of memory?): see {log}, and "
            "start the same command again"
        )
    raise RuntimeError(f"{what}: ended with exit code {code}: {log} says why")


def stop_at_once(*_: object) -> None:
    """Handle SIGTERM between two pieces of work.

    Raises:
        StoppedError: always.
    """
    raise StoppedError(STOPPED)


Handler = Callable[[int, FrameType | None], Any]
Found = tuple[Any, BaseException | None]
"""What the work returned, and what it raised for the user."""


def _received(receiver: Connection) -> Found | None:
    try:
        found: Found = receiver.recv()
    except EOFError:
        return None
    return found


def _work(parent: int, work: Callable[[], Any], log: Path, sender: Connection) -> None:
    # What the parent has left to be collected may wait for threads that are not here.
    gc.freeze()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != parent:
        os._exit(1)
    # What libraries print goes there too, past Python's own files.
    sys.stdout = sys.stderr = log.open("a", encoding="utf-8", buffering=1)
    for number in (1, 2):
        os.dup2(sys.stdout.fileno(), number)
    found: Found
    try:
        found = work(), None
    except (UserError, RankError, StoppedError, OSError, ImportError) as error:
        found = None, error
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    sender.send(found)
