"""A rank that falls silent is given up in time, whatever the others wait for."""

import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from dat_rec.errors import Failure, RankError, StoppedError
from dat_rec.parallel.agree import first_problem
from dat_rec.parallel.failure import LastWords, fail_together, is_communication_error
from dat_rec.parallel.process_group import process_group
from dat_rec.train.preemption import StopVote
from tests.distributed.ranks import run_ranks

TIMEOUT_S = 2


def waits() -> tuple[float, float]:
    """How long rank 0 waits for rank 1 in a vote and beside a checkpoint; rank 1 takes no part."""
    with process_group(TIMEOUT_S) as place:
        vote, group = StopVote(place), place.own_group()
        begin = time.monotonic()

        def waited(collective: Callable[[], object]) -> float:
            start = time.monotonic()
            with pytest.raises(RuntimeError) as caught:
                collective()
            assert is_communication_error(caught.value)
            return time.monotonic() - start

        found = (0.0, 0.0)
        if place.rank == 0:
            vote.cast()
            found = waited(vote.cast), waited(lambda: first_problem("", group))
        # The barrier at the block's end has a time-out too: arrive there together.
        time.sleep(max(0.0, begin + 3 * TIMEOUT_S - time.monotonic()))
        return found


@pytest.mark.parametrize(
    ("answers", "error", "kind"), [(True, StoppedError, "stopped"), (False, RankError, "died")]
)
def test_a_rank_that_is_stopped_because_another_died_names_the_dead(
    answers: bool, error: type[Exception], kind: str
) -> None:
    """torchrun sends SIGTERM to the ranks that live, as a scheduler does to all of them."""
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    if answers:
        store.set("alive/1", "")
    left: list[Failure] = []

    def leave(failure: Failure) -> str:
        left.append(failure)
        return ""

    with pytest.raises(error), fail_together(store, 0, 2, 60, LastWords(leave)):
        raise StoppedError("stopped by SIGTERM")
    (failure,) = left
    assert (failure.kind, failure.rank) == (kind, None if answers else 1)


def test_a_vote_and_a_checkpoint_wait_no_longer_than_training() -> None:
    (vote, checkpoint), _ = run_ranks(waits, 2)
    assert TIMEOUT_S / 2 < vote < 1.5 * TIMEOUT_S
    assert TIMEOUT_S / 2 < checkpoint < 1.5 * TIMEOUT_S
