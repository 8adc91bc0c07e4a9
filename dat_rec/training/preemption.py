"""Stop all ranks at the same step when one gets SIGTERM: a scheduler wants its host back.

Ranks get the signal at different steps, some perhaps not at all. After every step each sends the
others whether it got one; they receive it one step later, so that nobody waits.
"""

import signal
from typing import Any

import torch
import torch.distributed as dist

from dat_rec.dist.rank_context import RankContext


class StopVote:
    """Decides together whether to stop; listens for SIGTERM until it is closed.

    Args:
        context: this process's.
    """

    def __init__(self, context: RankContext) -> None:
        self._asked = False
        self._before: Any = signal.signal(signal.SIGTERM, self._ask)
        self._alone = context.world_size == 1
        # Apart from training's group, whose messages come in another order.
        self._group = None if self._alone else context.own_group()
        self._vote = torch.zeros((), dtype=torch.int64)
        self._work: dist.Work | None = None

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def cast(self) -> bool:
        """Return whether to stop after this step; every rank calls this after every step.

        With several ranks the answer is that of the votes in the call before, the same for all.
        """
        if self._alone:
            return self._asked
        stop = self._result()
        self._vote = torch.tensor(int(self._asked))
        self._work = dist.all_reduce(
            self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return stop

    def _result(self) -> bool:
        if self._work is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._vote)

    def close(self) -> None:
        """Receive the last vote, and let SIGTERM do what it did before."""
        self._result()
        signal.signal(signal.SIGTERM, self._before)
