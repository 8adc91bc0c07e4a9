"""Write a run's checkpoints, beside training where the memory allows a copy of the state.

Beside training, a checkpoint that the disk refuses is tried again until the next one is due; the
last one of a start for ``PATIENCE_S`` or as configured.
"""

import resource
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.checkpoint.listing import advice
from dat_rec.checkpoint.model_state import blocks_of, copied
from dat_rec.checkpoint.write_job import Fence, WriteJob
from dat_rec.checkpoint.write_tensors import Block
from dat_rec.disk import say
from dat_rec.dist.agree import all_gather_object
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import DiskError

PATIENCE_S = 600.0
"""Seconds for which the last checkpoint of a start is tried."""
WAITING_S = 15.0
"""Seconds for which another checkpoint is tried while training waits for it."""


class CheckpointWriter:
    """Writes a run's checkpoints; all ranks call its methods together.

    Args:
        run: the run's folder.
        context: this process's.
        keep: number of newest checkpoints that stay.
        keep_best: number of the best checkpoints that stay besides, of ``retention``.
        background: write beside training.
        copies: number of copies of the tables (2D parallelism).
        fence: is checked before anything is published or removed. None: nobody else writes.
        patience_s: seconds for which the last checkpoint is tried.
    """

    def __init__(
        self,
        run: Path,
        context: RankContext,
        keep: int,
        keep_best: int = 0,
        *,
        background: bool = True,
        copies: int = 1,
        fence: Fence | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._run = run
        self._fence = fence
        self._patience_s = patience_s
        self._context = context
        self._keep = keep
        self._keep_best = keep_best
        self._background = background
        self._copies = copies
        # A group of its own: the thread's messages must not mix with those of training.
        self._group = context.own_group(patient=True)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[WriteJob, Future[None]] | None = None
        self.stall_s = 0.0
        """Seconds for which training has waited for checkpoints."""

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: CombinedOptimizer,
        facts: dict[str, Any],
        *,
        last: bool = False,
    ) -> None:
        """Begin to write the checkpoint after ``step`` steps.

        The checkpoint before, if the disk still refuses it, is given up, with a line on stderr:
        this one takes its place.

        Args:
            step: number of steps done.
            model: sharded.
            optimizer: of ``build_optimizer``.
            facts: what else checkpoint.json shall hold; ``validation``, or else ``loss``, decides
                which one is best.
            last: whether this start ends with it.

        Raises:
            SharedError: the checkpoint before could not be written (a folder without rights, say),
                or a weight of it was not finite.
            DiskError: the last one could not be written in time.
            SupersededError: another start of this run writes its checkpoints now.
        """
        begin = time.perf_counter()
        self.settle()
        blocks = blocks_of(model, optimizer, self._copies)
        kept = (self._keep, self._keep_best)
        job = WriteJob(self._run, step, facts, kept, self._group, self._fence)
        # If one rank has no room for a copy, all write before they go on.
        if all(all_gather_object(self._background and self._has_room(blocks))):
            self._pending = job, self._thread.submit(job.write, copied(blocks))
        else:
            job.end_after(self._patience_s if last else WAITING_S)
            try:
                job.write(blocks)
            except DiskError as error:
                if last:
                    raise self._for_good(error) from error
                self._say_given_up(error)
        self.stall_s += time.perf_counter() - begin

    def _has_room(self, blocks: list[Block]) -> bool:
        """Return whether a copy fits beside what this process holds now."""
        wanted = sum(block.tensor.numel() * block.tensor.element_size() for block in blocks)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * resource.getpagesize()
        room = self._context.host_memory_bytes
        if self._context.device.type == "cpu":
            room = self._context.memory_bytes
        return held + wanted <= room

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is whole; it is the last one of this start.

        Raises:
            SharedError: it could not be written.
            DiskError: it could not be written in time.
        """
        try:
            self._wait(self._patience_s)
        except DiskError as error:
            raise self._for_good(error) from error

    def settle(self) -> None:
        """Wait for the checkpoint that was begun; what the disk refuses is not tried again.

        Raises:
            SharedError: it could not be written, for another reason than the disk's.
        """
        try:
            self._wait(0)
        except DiskError as error:
            self._say_given_up(error)

    def _wait(self, patience_s: float) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        job, done = pending
        job.end_after(patience_s)
        try:
            done.result()
        except BaseException:
            job.end_after(0)
            raise

    def _for_good(self, error: DiskError) -> DiskError:
        return DiskError(
            f"{error}, tried for {self._patience_s:g} s: free the disk or mend the folder, then "
            f"{advice(self._run)}"
        )

    def _say_given_up(self, error: DiskError) -> None:
        if self._context.is_rank_zero:
            say(f"{error}: given up; training goes on to the next checkpoint")

    def close(self) -> None:
        """Wait for the thread; an error of the checkpoint that was begun is not raised any more."""
        if self._pending is not None:
            self._pending[0].end_after(0)
        self._thread.shutdown(wait=True)
