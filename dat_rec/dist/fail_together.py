"""Why all ranks stop when one fails, within seconds, and how each learns which one and why.

Without this, when one rank dies the others wait in a collective until it times out, or fail with a
network error that does not say which rank died. Three things in the store that all ranks share
prevent it:

- the first failure (``first_failure``): a rank that fails publishes its error before it ends. A
  thread on every other rank looks for it twice a second, and ends its process if the main thread
  hangs (``failure_watch``).
- the roll call (``roll_call``): a rank whose communication broke, without a published failure,
  calls all others. One that does not answer has died.
- the heartbeat (``heartbeat``): a machine that vanishes breaks no connection. Rank 0 calls the roll
  when a rank's heartbeat stops, and a rank whose store falls silent ends.

Whatever ends a rank is also left in the run's folder (``failure_report``), and errors of another
rank are told from this rank's own (``communication_errors``).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from dat_rec.dist.communication_errors import in_short, is_communication_error
from dat_rec.dist.failure_report import FailureReporter
from dat_rec.dist.failure_watch import INTERRUPTED, FailureWatch
from dat_rec.dist.memory_errors import out_of_memory_explained
from dat_rec.errors import (
    Failure,
    RankError,
    SharedError,
    StoppedError,
    SupersededError,
    UserError,
)

LOST_S = 15.0
"""Seconds without a sign of life after which a rank or the store is taken for lost, at most the
timeout."""


@contextmanager
def fail_together(
    store: dist.Store, rank: int, world_size: int, timeout_s: float, reporter: FailureReporter
) -> Iterator[None]:
    """Watch over the block: a failure in it, here or on another rank, ends all ranks.

    Args:
        store: shared by all ranks, with keys for this use alone.
        rank: this process's.
        world_size: number of ranks.
        timeout_s: the run's timeout. A silent rank is taken for lost after ``LOST_S`` or this,
            whichever is less.
        reporter: writes what this rank knows of a failure.

    Raises:
        RankError: another rank failed; names it, and its error.
        UserError: this rank ran out of memory.
    """
    watch = None
    if world_size > 1:
        watch = FailureWatch(store, rank, world_size, min(LOST_S, timeout_s), reporter)
    try:
        with out_of_memory_explained(), _sigterm_ignored_after_failure():
            yield
        # Nobody leaves before all are done: one that has left could not be told of a failure.
        if watch:
            dist.barrier()
    except SupersededError:  # the run's folder belongs to another start
        raise
    except SharedError as error:
        reporter.report(Failure("error", None, str(error)), error)
        raise
    except (StoppedError, KeyboardInterrupt) as stop:
        reason = str(stop) or INTERRUPTED
        cause = watch.publish(reason, "stopped") if watch else None
        if cause and isinstance(stop, StoppedError):
            # torchrun stops the ranks that live, when one has failed or died.
            raise _lost(cause, reporter) from stop
        reporter.report(Failure("stopped", None, reason), stop)
        raise
    except BaseException as error:
        if watch and is_communication_error(error):
            raise _lost(replace(watch.explain(), cause=in_short(error)), reporter) from error
        user = isinstance(error, UserError | RankError)
        failure = Failure("error", rank, str(error) if user else f"{type(error).__name__}: {error}")
        if watch:
            watch.publish(failure.reason)
        reporter.report(failure, error)
        raise
    finally:
        if watch:
            watch.close()
        if _sigterm_before:
            signal.signal(signal.SIGTERM, _sigterm_before.pop())


def _lost(failure: Failure, reporter: FailureReporter) -> RankError:
    """Report another rank's failure, and return the error that ends this one."""
    error = RankError(f"{failure}: {reporter.how_to_go_on()}")
    reporter.report(failure, error)
    return error


_sigterm_before: list[Any] = []
"""The handler of SIGTERM from before a failure, until this rank has told of it."""


@contextmanager
def _sigterm_ignored_after_failure() -> Iterator[None]:
    """Ignore SIGTERM once this rank has failed: torchrun sends it to the ranks that live.

    The usual handler's ``StoppedError`` would hide the failure.
    """
    try:
        yield
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            _sigterm_before.append(signal.signal(signal.SIGTERM, signal.SIG_IGN))
        raise
