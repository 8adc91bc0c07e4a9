"""What one rank found wrong in, the same stop on all ranks out, instead of a hang.

Every function here is a collective: all ranks call it, at the same point.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from dat_rec.errors import SharedError, UserError


def first_problem(problem: str, group: dist.ProcessGroup | None = None) -> tuple[int, str]:
    """The lowest rank with a problem, and its words; (-1, "") when all is well.

    Args:
        problem: this rank's, or nothing.
        group: of all ranks; the default one without it.
    """
    problems = _problems(problem, group)
    return next(((rank, text) for rank, text in enumerate(problems) if text), (-1, ""))


def _problems(problem: str, group: dist.ProcessGroup | None = None) -> list[str]:
    problems: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(problems, problem, group=group)
    return problems


def raise_first(error: SharedError | None, group: dist.ProcessGroup | None = None) -> None:
    """Raise on every rank the error of the lowest rank that has one.

    Args:
        error: this rank's, or nothing.
        group: of all ranks; the default one without it.

    Raises:
        SharedError: that error, of its own class.
    """
    errors: list[SharedError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error, group=group)
    for found in errors:
        if found is not None:
            raise found


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
    problems = _problems(problem)
    for rank, text in enumerate(problems):
        if text:
            raise SharedError(text if all(problems) else f"rank {rank}: {text}")


def check_same_on_all_ranks(value: str, what: str) -> None:
    """Refuse to go on when ranks disagree (about the configuration, the plan, the data).

    Raises:
        SharedError: on every rank alike.
    """
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    differing = [rank for rank, other in enumerate(values) if other != values[0]]
    if differing:
        raise SharedError(
            f"{what} differs between rank 0 and rank {differing[0]}: start every rank with the "
            "same command, code and data"
        )
