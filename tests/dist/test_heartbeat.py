"""A rank whose heartbeat stops is seen by rank 0, and one that beats is not."""

import time

import pytest
import torch.distributed as dist

from dat_rec.dist import heartbeat
from dat_rec.dist.heartbeat import Heartbeat


def test_rank_0_sees_the_heartbeat_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.02)
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    first, second = (Heartbeat(rank, 2, timeout_s=0.1) for rank in (0, 1))
    for _ in range(10):
        assert not second.beat(store)
        assert not first.beat(store)
        time.sleep(0.03)
    stopped = time.monotonic()
    while not first.beat(store):
        assert time.monotonic() < stopped + 30
        time.sleep(0.01)
    assert time.monotonic() > stopped + 0.1
