"""What one rank found wrong in, the same stop on all ranks out, instead of a hang.

Every function here is a collective: all ranks call it, at the same point. Ranks come to it from
work of their own, mostly on a disk, which may take one of them long: the others wait as long as
that one lives, whatever the network's time-out. A rank that dies meanwhile breaks its connections,
or falls silent, and ends the wait (``dist/failure.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from dat_rec.errors import DiskError, SharedError, UserError

PATIENCE = timedelta(days=30)
"""No time-out, in words that gloo understands."""
CONNECT = timedelta(minutes=5)
"""In which the ranks must connect all the same."""
_made: list[tuple[Any, dist.ProcessGroup]] = []
"""The world of ranks that there is now, and its patient group."""


def patient_group(connect: timedelta = CONNECT) -> dist.ProcessGroup:
    """A new group of all ranks on CPU, in which they wait for one another as long as they live.

    Args:
        connect: time in which they must have connected.
    """
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=connect)
    dist.distributed_c10d._set_pg_timeout(PATIENCE, group)
    return group


def connect(timeout: timedelta = CONNECT) -> None:
    """Make the group of what is agreed on here, while the ranks stand at the same point.

    Without it the first call does so, which some of them may come to long before the others.

    Args:
        timeout: in which they must have connected.
    """
    if dist.get_world_size() > 1 and (not _made or _made[0][0] is not dist.group.WORLD):
        _made[:] = [(dist.group.WORLD, patient_group(timeout))]


def _all_ranks() -> dist.ProcessGroup | None:
    """The group of what is agreed on here; of one rank, the default."""
    if dist.get_world_size() == 1:
        return None
    connect()
    return _made[0][1]


def gathered(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every rank's value.

    Args:
        value: this rank's; it can be pickled.
        group: of all ranks, patient; one that the calls here share without it.
    """
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group or _all_ranks())
    return values


def from_first(value: Any) -> Any:
    """The first rank's value, on all ranks: what it has looked at may look otherwise elsewhere."""
    values = [value]
    dist.broadcast_object_list(values, group=_all_ranks())
    return values[0]


def first_problem(problem: str, group: dist.ProcessGroup | None = None) -> tuple[int, str]:
    """The lowest rank with a problem, and its words; (-1, "") when all is well.

    Args:
        problem: this rank's, or nothing.
        group: as ``gathered``'s.
    """
    problems = gathered(problem, group)
    return next(((rank, text) for rank, text in enumerate(problems) if text), (-1, ""))


def raise_first(error: SharedError | None, group: dist.ProcessGroup | None = None) -> None:
    """Raise on every rank the error of the lowest rank that has one.

    An error that no later try mends comes before a ``DiskError``.

    Args:
        error: this rank's, or nothing.
        group: as ``gathered``'s.

    Raises:
        SharedError: that error, of its own class.
    """
    found = [one for one in gathered(error, group) if one is not None]
    if found:
        raise min(found, key=lambda one: isinstance(one, DiskError))


def raise_together(problem: str) -> None:
    """Raise on every rank if one of them has a problem.

    Raises:
        SharedError: with that rank's words.
    """
    _, text = first_problem(problem)
    if text:
        raise SharedError(text)


@contextmanager
def together() -> Iterator[None]:
    """What a rank refuses in the block, which must hold no collective, all ranks refuse.

    Raises:
        SharedError: on every rank, with the words of the first that refuses; it is named where
            another finds nothing wrong, as hosts see other disks.
    """
    problem = ""
    try:
        yield
    except UserError as error:
        problem = str(error)
    problems = gathered(problem)
    for rank, text in enumerate(problems):
        if text:
            raise SharedError(text if all(problems) else f"rank {rank}: {text}")


def check_same_on_all_ranks(value: str, what: str) -> None:
    """Refuse to go on when ranks disagree (about the configuration, the plan, the data).

    Raises:
        SharedError: on every rank alike.
    """
    values = gathered(value)
    differing = [rank for rank, other in enumerate(values) if other != values[0]]
    if differing:
        raise SharedError(
            f"{what} differs between rank 0 and rank {differing[0]}: start every rank with the "
            "same command, code and data"
        )
