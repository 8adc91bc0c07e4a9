"""What one rank found wrong in, the same stop on all ranks out, instead of a hang.

Every function here is a collective: all ranks call it, at the same point.
"""

from typing import Any

import torch.distributed as dist

from dat_rec.errors import UserError


def first_problem(problem: str) -> tuple[int, str]:
    """The lowest rank with a problem, and its words; (-1, "") when all is well.

    Args:
        problem: this rank's, or nothing.
    """
    problems: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    return next(((rank, text) for rank, text in enumerate(problems) if text), (-1, ""))


def raise_together(problem: str) -> None:
    """Raise on every rank if one of them has a problem.

    Raises:
        UserError: with that rank's words.
    """
    _, text = first_problem(problem)
    if text:
        raise UserError(text)


def check_same_on_all_ranks(value: str, what: str) -> None:
    """Refuse to go on when ranks disagree (about the configuration, the plan, the data).

    Raises:
        UserError: on every rank alike.
    """
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    differing = [rank for rank, other in enumerate(values) if other != values[0]]
    if differing:
        raise UserError(
            f"{what} differs between rank 0 and rank {differing[0]}: start every rank with the "
            "same command, code and data"
        )
