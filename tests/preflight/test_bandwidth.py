"""Messages between ranks: they arrive, take time, and are judged."""

import pytest

from dat_rec.dist.process_group import process_group
from dat_rec.preflight.bandwidth import Bandwidth, bandwidths, check_bandwidth
from tests.distributed.ranks import run_ranks
from tests.preflight.test_rank_checks import judged


def measured() -> dict[str, Bandwidth]:
    with process_group(60) as context:
        return bandwidths(context)


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_ranks_send_arrives_and_takes_time(ranks: int) -> None:
    for found in run_ranks(measured, ranks):
        assert found.keys() == {"all-reduce", "all-to-all"}
        for one in found.values():
            assert one.right
            # Between a bad wireless network and the fastest memory there is.
            assert 1e6 < one.bytes_per_s < 1e12


def test_numbers_that_arrive_changed_are_a_problem_of_the_rank_that_got_them() -> None:
    fine, wrong = Bandwidth(2e9, right=True), Bandwidth(2e9, right=False)
    measured = [{"all-reduce": fine, "all-to-all": fine}, {"all-reduce": wrong, "all-to-all": fine}]
    found = judged(list(check_bandwidth(measured)))
    assert found["all-reduce"][:2] == ("problem", "rank 1 got other numbers than were sent")
    assert found["all-to-all"] == ("ok", "2 GB/s sent by each rank", None)
