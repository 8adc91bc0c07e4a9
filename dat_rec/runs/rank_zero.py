"""Rank 0 reads and writes the run's folder for all ranks; its error is every rank's error."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from dat_rec.checkpoint.listing import advice
from dat_rec.disk import Patience, keep_trying, may_pass, reason, system_error
from dat_rec.dist.agree import broadcast_from_rank_0
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import DiskError, SharedError, UserError, shared

T = TypeVar("T")


def on_rank_0(context: RankContext, action: Callable[[], T]) -> T:
    """Do ``action`` on rank 0, and return its result on every rank; a collective of one broadcast.

    Args:
        context: this process's.
        action: raises no error of the user's but ``SharedError``, as ``patiently`` sees to.

    Raises:
        SharedError: the action's, on every rank.
    """
    problem: SharedError | None = None
    result: T | None = None
    if context.is_rank_zero:
        try:
            result = action()
        except SharedError as error:
            problem = error
    problem, result = broadcast_from_rank_0((problem, result))
    if problem is not None:
        raise problem
    return cast(T, result)


def patiently(action: Callable[[], T], run: Path, patience_s: int) -> T:
    """Do ``action``, which works on the run's folder, and return its result.

    Args:
        action: can be done again from the start.
        run: the run's folder.
        patience_s: seconds for which a full or absent disk is tried again; 0: not at all.

    Raises:
        SharedError: the action was refused, or the folder cannot be read or written.
        DiskError: the disk has refused it for ``patience_s``.
    """
    try:
        if not patience_s:
            return action()
        return keep_trying(action, Patience(patience_s), f"{run}: rank 0", run)
    except SharedError:
        raise
    except (OSError, UserError) as error:
        raise _shared(error, run, patience_s) from error


def _shared(error: OSError | UserError, run: Path, patience_s: int) -> SharedError:
    """Return the error that every rank raises for one of rank 0's."""
    if patience_s and may_pass(error):
        where = getattr(system_error(error), "filename", None) or run
        return DiskError(
            f"{where}: {reason(error, run)}, tried for {patience_s} s: free the disk or "
            f"mend the folder, then {advice(run)}"
        )
    if isinstance(error, UserError):
        return shared(error)
    where = error.filename or run
    return SharedError(f"{where}: cannot be written ({error.strerror}): choose another --out")
