"""Roll call: every rank that lives answers in the store, and who does not answer is missing.

There are two, each with store keys of its own:

- ``AFTER_FAILURE`` (``roll_call``, ``alive/R``) is called when communication broke. Ranks also
  answer it when they see a published failure, so that the one that failed knows it was read.
- ``BEFORE_STOP`` (``stop_roll_call``, ``present/R``) is called by a rank that got SIGTERM. A
  scheduler sends it to all ranks, but torchrun also to those that live after one has died, and a
  rank that waits for a dead one in a collective cannot stop in order.
"""

import time
from dataclasses import dataclass

import torch.distributed as dist

POLL_S = 0.1
"""Seconds between two looks for answers."""


@dataclass(frozen=True)
class RollCall:
    """One question to all ranks."""

    question: str
    """Store key that is set when the roll is called."""
    answers: str
    """Prefix of the store keys by which ranks answer."""
    timeout_s: float
    """Maximum number of seconds that a living rank takes to answer."""

    def call(self, store: dist.Store, rank: int) -> None:
        """Ask all ranks, and answer for this one."""
        store.set(self.question, "")
        self.answer(store, rank)

    def is_called(self, store: dist.Store) -> bool:
        """Whether a rank has asked."""
        return bool(store.check([self.question]))

    def answer(self, store: dist.Store, rank: int) -> None:
        """Say that this rank lives."""
        store.set(f"{self.answers}/{rank}", "")

    def missing_ranks(self, store: dist.Store, world_size: int) -> list[int]:
        """Wait for answers, and return the ranks that gave none in time."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            missing = [
                rank for rank in range(world_size) if not store.check([f"{self.answers}/{rank}"])
            ]
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(POLL_S)


AFTER_FAILURE = RollCall("roll_call", "alive", 4.0)
BEFORE_STOP = RollCall("stop_roll_call", "present", 6.0)
"""It waits longer, since a rank that is wrongly taken for missing costs steps."""
