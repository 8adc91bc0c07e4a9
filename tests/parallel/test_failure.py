"""A rank that falls silent is given up in time; one that lives has the time that its disk takes."""

import time

import pytest
import torch.distributed as dist

from dat_rec.errors import Failure, RankError, StoppedError
from dat_rec.parallel.agree import gathered
from dat_rec.parallel.failure import LastWords, fail_together, is_communication_error
from dat_rec.parallel.process_group import process_group
from dat_rec.train.preemption import StopVote
from tests.distributed.ranks import run_ranks

TIMEOUT_S = 2


def waits() -> tuple[float, float]:
    """How long rank 0 waits for rank 1 in a vote, and until what is found on a disk is agreed on.

    Rank 1 takes no part in the vote, and comes late to what is agreed.
    """
    with process_group(TIMEOUT_S) as place:
        vote, patient = StopVote(place), place.own_group(patient=True)
        assert gathered(place.rank) == [0, 1]
        begin = time.monotonic()
        gave_up = 0.0
        if place.rank == 0:
            vote.cast()
            with pytest.raises(RuntimeError) as caught:
                vote.cast()
            assert is_communication_error(caught.value)
            gave_up = time.monotonic() - begin
        else:
            time.sleep(3 * TIMEOUT_S)
        assert gathered(place.rank, patient) == [0, 1]
        assert gathered(place.rank) == [0, 1]
        return gave_up, time.monotonic() - begin


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


def test_a_vote_waits_no_longer_than_training_and_a_disk_is_waited_for() -> None:
    (vote, disk), _ = run_ranks(waits, 2)
    assert TIMEOUT_S / 2 < vote < 1.5 * TIMEOUT_S
    assert disk > 2.5 * TIMEOUT_S
