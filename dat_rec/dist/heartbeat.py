"""Heartbeat: every rank counts up in the store, and rank 0 sees whose count stands still.

A machine that vanishes breaks no connection: without a heartbeat the others would wait for it in a
collective until its timeout. The store key is ``heartbeat/R``.
"""

import time

import torch.distributed as dist

INTERVAL_S = 2.0
"""Seconds between two beats of a rank."""


class Heartbeat:
    """Beats for this rank, and on rank 0 watches the beats of all.

    Args:
        rank: this process's.
        world_size: number of ranks.
        timeout_s: seconds without a beat after which a rank is given up.
    """

    def __init__(self, rank: int, world_size: int, timeout_s: float) -> None:
        self._rank = rank
        self._keys = [f"heartbeat/{each}" for each in range(world_size)]
        self._timeout_s = timeout_s
        self._count = 0
        self._next = time.monotonic()
        self._seen: list[bytes] = [b""] * world_size
        self._still_s = [0.0] * world_size

    def beat(self, store: dist.Store) -> bool:
        """Beat, if it is time to; call it more often than every ``INTERVAL_S``.

        Returns:
            Whether a rank's count has stood still for ``timeout_s``; only rank 0 knows.
        """
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + INTERVAL_S
        self._count += 1
        store.set(self._keys[self._rank], str(self._count))
        if self._rank or not store.check(self._keys):
            return False
        found = store.multi_get(self._keys)
        for rank, (old, new) in enumerate(zip(self._seen, found, strict=True)):
            self._still_s[rank] = self._still_s[rank] + INTERVAL_S if old == new else 0.0
        self._seen = found
        return max(self._still_s) > self._timeout_s
