"""What ranks agree on when several have an error."""

import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from dat_rec.dist import agree
from dat_rec.dist.agree import all_gather_object, broadcast_from_rank_0, raise_first, together
from dat_rec.dist.process_group import process_group
from dat_rec.errors import DiskError, SharedError, StoreError, UserError
from tests.distributed.ranks import run_ranks

ERRORS = (DiskError("full"), SharedError("not finite"), SharedError("no right to write"))


def told(*errors: UserError | None) -> tuple[str, bool]:
    """What every rank is told of these, and whether it is of a store that is away."""
    found: SharedError | None = None
    try:
        with together():
            if (error := errors[dist.get_rank()]) is not None:
                raise error
    except SharedError as raised:
        found = raised
    return str(found), isinstance(found, StoreError)


def agreed() -> tuple[object, ...]:
    with process_group(60):
        rank = dist.get_rank()
        with pytest.raises(SharedError) as caught:
            raise_first(ERRORS[rank])
        raise_first(None)
        away = told(None, StoreError("away"), None)
        wrong = told(StoreError("away"), None, UserError("wrong"))
        found = all_gather_object(rank), broadcast_from_rank_0(rank)
        return str(caught.value), away, wrong, *found


def test_an_error_that_no_later_try_mends_comes_before_one_of_the_disk_or_a_store() -> None:
    away, wrong = ("rank 1: away", True), ("rank 2: wrong", False)
    assert run_ranks(agreed, 3) == [("not finite", away, wrong, [0, 1, 2], 0)] * 3


def late() -> list[int]:
    agree.connect.__defaults__ = (timedelta(seconds=2),)
    with process_group(60):
        rank = dist.get_rank()
        time.sleep(6 * rank)
        return all_gather_object(rank)


def test_a_rank_that_comes_late_to_the_first_agreement_is_waited_for_as_to_any() -> None:
    assert run_ranks(late, 2) == [[0, 1]] * 2
