"""Agree on values and errors across ranks, so that all go on, or all stop with the same words.

Every function here is a collective: all ranks call it, at the same point. Between two calls a rank
may work on a disk for long, so these collectives have no timeout: the others wait as long as that
rank lives. If it dies meanwhile, its broken connections or missing heartbeats end the wait
(``dat_rec.dist.fail_together``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch.distributed as dist

from dat_rec.errors import DiskError, SharedError, StoreError, UserError, shared

NO_TIMEOUT = timedelta(days=30)
"""The largest timeout that gloo takes in good faith; it has no word for none."""
CONNECT_TIMEOUT = timedelta(minutes=5)
"""Maximum time in which the ranks must connect all the same."""
_made: list[tuple[Any, dist.ProcessGroup]] = []
"""The default process group of now, and the patient group that belongs to it."""


def patient_group(connect_timeout: timedelta = CONNECT_TIMEOUT) -> dist.ProcessGroup:
    """Make a gloo group of all ranks in which they wait for one another without a timeout.

    Args:
        connect_timeout: maximum time in which they must connect.
    """
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=connect_timeout))
    dist.distributed_c10d._set_pg_timeout(NO_TIMEOUT, group)
    return group


def connect(timeout: timedelta = CONNECT_TIMEOUT) -> None:
    """Make the group that the functions below use, while all ranks stand at the same point.

    Otherwise their first call makes it, to which some ranks may come later than the timeout.

    Args:
        timeout: maximum time in which the ranks must connect.
    """
    if dist.get_world_size() > 1 and (not _made or _made[0][0] is not dist.group.WORLD):
        _made[:] = [(dist.group.WORLD, patient_group(timeout))]


def _all_ranks() -> dist.ProcessGroup | None:
    """Return the group that the functions below use; None, the default one, for a single rank."""
    if dist.get_world_size() == 1:
        return None
    connect()
    return _made[0][1]


def all_gather_object(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return every rank's value, by rank; this process's alone where there is no process group.

    Args:
        value: this rank's, of anything that can be pickled.
        group: a patient group of all ranks; None for the one that this module shares.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group or _all_ranks())
    return values


def broadcast_from_rank_0(value: Any) -> Any:
    """Return rank 0's value on all ranks: what it saw on a disk may look otherwise elsewhere."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, group=_all_ranks())
    return values[0]


def wait_for_all_ranks() -> None:
    """Return when all ranks have called this; a barrier without a timeout."""
    all_gather_object(None)


def raise_first(error: SharedError | None, group: dist.ProcessGroup | None = None) -> None:
    """Raise on every rank the error of the lowest rank that has one.

    A ``DiskError``, which a later try may mend, gives way to an error of another class.

    Args:
        error: this rank's, or None.
        group: as of ``all_gather_object``.

    Raises:
        SharedError: that error, of its own class.
    """
    found = [one for one in all_gather_object(error, group) if one is not None]
    if found:
        raise min(found, key=lambda one: isinstance(one, DiskError))


def raise_together(problem: str) -> None:
    """Raise on every rank if one of them has a problem.

    Args:
        problem: this rank's, in words; empty for none.

    Raises:
        SharedError: with the words of the lowest rank that has a problem.
    """
    raise_first(SharedError(problem) if problem else None)


@contextmanager
def together() -> Iterator[None]:
    """Refuse on all ranks what one of them refuses in the block, which must hold no collective.

    Raises:
        SharedError: on every rank, with the words of the lowest rank that refuses. The rank is
            named if another finds nothing wrong, since hosts may see different disks.
    """
    problem: SharedError | None = None
    try:
        yield
    except UserError as error:
        problem = shared(error)
    problems = all_gather_object(problem)
    found = {rank: one for rank, one in enumerate(problems) if one is not None}
    if found:
        # What a later try may mend gives way to what it does not.
        rank = min(found, key=lambda rank: isinstance(found[rank], DiskError | StoreError))
        named = "" if all(problems) else f"rank {rank}: "
        raise shared(found[rank], f"{named}{found[rank]}")


def check_same_on_all_ranks(value: str, what: str) -> None:
    """Refuse to go on if ranks disagree.

    Args:
        value: this rank's, of the configuration, the plan or the data.
        what: what it is, for the message.

    Raises:
        SharedError: on every rank, with the lowest rank that differs from rank 0.
    """
    values = all_gather_object(value)
    differing = [rank for rank, other in enumerate(values) if other != values[0]]
    if differing:
        raise SharedError(
            f"{what} differs between rank 0 and rank {differing[0]}: start every rank with the "
            "same command, code and data"
        )
