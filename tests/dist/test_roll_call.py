"""Who does not answer a roll call is missing, and two roll calls do not mix."""

import time

import torch.distributed as dist

from dat_rec.dist.roll_call import RollCall


def test_the_ranks_that_do_not_answer_in_time_are_missing() -> None:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    one, other = RollCall("one", "here", 0.3), RollCall("other", "present", 0.3)
    one.call(store, rank=1)
    other.answer(store, rank=2)
    assert one.is_called(store)
    assert not other.is_called(store)
    begin = time.monotonic()
    assert one.missing_ranks(store, world_size=3) == [0, 2]
    assert time.monotonic() - begin > 0.3
    one.answer(store, rank=0)
    one.answer(store, rank=2)
    assert one.missing_ranks(store, world_size=3) == []
