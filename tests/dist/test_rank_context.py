"""Groups of a rank's own: a rank that falls silent is given up in time, a disk is waited for."""

import time

import pytest

from dat_rec.dist.agree import all_gather_object
from dat_rec.dist.communication_errors import is_communication_error
from dat_rec.dist.process_group import process_group
from dat_rec.training.preemption import StopVote
from tests.distributed.ranks import run_ranks

TIMEOUT_S = 2


def waits() -> tuple[float, float]:
    """How long rank 0 waits for rank 1 in a vote, and until what is found on a disk is agreed on.

    Rank 1 takes no part in the vote, and comes late to what is agreed.
    """
    with process_group(TIMEOUT_S) as context:
        vote, patient = StopVote(context), context.own_group(patient=True)
        assert all_gather_object(context.rank) == [0, 1]
        begin = time.monotonic()
        gave_up = 0.0
        if context.rank == 0:
            vote.cast()
            with pytest.raises(RuntimeError) as caught:
                vote.cast()
            assert is_communication_error(caught.value)
            gave_up = time.monotonic() - begin
        else:
            time.sleep(3 * TIMEOUT_S)
        assert all_gather_object(context.rank, patient) == [0, 1]
        assert all_gather_object(context.rank) == [0, 1]
        return gave_up, time.monotonic() - begin


def test_a_vote_waits_no_longer_than_training_and_a_disk_is_waited_for() -> None:
    (vote, disk), _ = run_ranks(waits, 2)
    assert TIMEOUT_S / 2 < vote < 1.5 * TIMEOUT_S
    assert disk > 2.5 * TIMEOUT_S
