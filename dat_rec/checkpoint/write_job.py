"""Write one checkpoint: every rank its own file, then rank 0 the index, then it appears whole.

All ranks do the same actions, and agree on each. They wait for one another's disks without a
timeout, and try again what may pass (a full disk, a file server that is away; ``dat_rec.disk``).
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch.distributed as dist

from dat_rec.checkpoint.listing import DIGESTS, INDEX, VERSION, advice, checkpoint_folder
from dat_rec.checkpoint.model_state import check_finite
from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.checkpoint.retention import drop_old
from dat_rec.checkpoint.write_tensors import SUFFIX, Block, write_blocks
from dat_rec.disk import READ_S, UNSEEN, Patience, keep_trying, may_pass, reason
from dat_rec.dist.agree import all_gather_object, raise_first
from dat_rec.errors import DiskError, SharedError, SupersededError, UserError
from dat_rec.files import PARTIAL_SUFFIX, publish, sha256, write_json

T = TypeVar("T")


class Fence(Protocol):
    """Says whether this start of the run may still write in its folder (``runs.fence.Fence``)."""

    @property
    def mark(self) -> str:
        """A short name of this start, for the names of its unfinished folders."""
        ...

    def check(self) -> None:
        """Raise ``SupersededError`` if another start has taken the folder over."""


class _RankFile(NamedTuple):
    """The file that one rank has written."""

    name: str
    entries: list[dict[str, Any]]
    """The file's tensors, for the index."""
    digest: str
    """SHA-256 of the file."""


class WriteJob:
    """One checkpoint on its way to the disk.

    Args:
        run: the run's folder.
        step: number of steps done.
        facts: what else checkpoint.json shall hold.
        kept: numbers of newest checkpoints, and of the best ones, that stay.
        group: of all ranks, without a timeout.
        fence: is checked before anything is published or removed. None: nobody else writes.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        facts: dict[str, Any],
        kept: tuple[int, int],
        group: dist.ProcessGroup,
        fence: Fence | None,
    ) -> None:
        self._run, self._step = run, step
        self._kept = kept
        self._fence = fence
        self._facts = {"version": VERSION, "step": step, **facts}
        self._folder = checkpoint_folder(run, step)
        # Named after this start: two that both believe to be the run's must not mix their files.
        mark = f".{fence.mark}" if fence is not None else ""
        self._partial = self._folder.with_name(self._folder.name + mark + PARTIAL_SUFFIX)
        self._group = group
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._what = f"{self._folder}: rank {self._rank}: writing"
        self._sealed = False
        self._patience = Patience()
        self._unseen = Patience(READ_S)

    def end_after(self, seconds: float) -> None:
        """Set for how long this rank tries what its disk refuses, from the next refusal on.

        Args:
            seconds: 0: it does not try again.
        """
        self._patience.end_after(seconds)
        self._unseen.end_after(min(seconds, READ_S))

    def write(self, blocks: list[Block]) -> None:
        """Write the checkpoint, and remove the older ones that need not stay.

        Args:
            blocks: this rank's.

        Raises:
            SharedError: a rank could not write, or a weight is not finite.
            DiskError: a rank's disk has refused for as long as it was tried.
            SupersededError: another start of this run writes its checkpoints now.
        """

        def begin() -> None:
            check_finite(blocks)
            if self._rank == 0:
                self._check_fence()
                shutil.rmtree(self._partial, ignore_errors=True)
                self._partial.mkdir(parents=True, exist_ok=True)

        try:
            self._together(begin)
            # Network file systems show rank 0's folder later elsewhere.
            unseen = self._unseen if self._rank else None
            own = self._together(lambda: self._write_own(blocks), unseen)
            files = all_gather_object(own, self._group)
            self._together(lambda: self._seal(files) if self._rank == 0 else None)
        finally:
            if self._rank == 0:
                shutil.rmtree(self._partial, ignore_errors=True)

    def _write_own(self, blocks: list[Block]) -> _RankFile:
        file = self._partial / f"rank-{self._rank:04d}-of-{self._ranks:04d}{SUFFIX}"
        try:
            return _RankFile(file.name, *write_blocks(file, blocks))
        except OSError:
            # A disk must not stay full of a file that is half-written.
            with suppress(OSError):
                file.unlink(missing_ok=True)
            raise

    def _seal(self, files: list[_RankFile]) -> None:
        """Add the index and the digests, and let the checkpoint appear; remove older ones."""
        self._check_fence()
        if not self._sealed:
            tensors = [entry for file in files for entry in file.entries]
            look = partial(TensorFiles, self._partial, tensors)  # refuses gaps
            keep_trying(look, self._unseen, self._what, self._partial, UNSEEN)
            write_json(self._partial / INDEX, self._facts | {"tensors": tensors})
            digests = {file.name: file.digest for file in files}
            digests[INDEX] = sha256(self._partial / INDEX)
            write_json(self._partial / DIGESTS, digests)
            self._sealed = True
        if self._partial.exists() or not self._folder.exists():  # not done by an earlier try
            self._check_fence()
            publish(self._partial, self._folder)
        self._check_fence()
        drop_old(self._run, self._step, *self._kept)

    def _check_fence(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _together(self, action: Callable[[], T], unseen: Patience | None = None) -> T:
        """Do ``action`` on every rank; if it fails on one, every rank raises, and says which."""
        problem: SharedError | None = None
        interrupted = False
        results: list[T] = []
        try:
            result = keep_trying(action, self._patience, self._what, self._folder, unseen=unseen)
            results.append(result)
        except KeyboardInterrupt:
            problem, interrupted = SharedError("interrupted"), True
        except SupersededError as error:
            problem = error
        except (OSError, MemoryError, UserError) as error:
            problem = self._shared(error)
        try:
            raise_first(problem, self._group)
        except SupersededError:
            raise
        except SharedError:
            self._raise_if_superseded()
            if interrupted:
                raise KeyboardInterrupt from None
            raise
        return results[0]

    def _shared(self, error: OSError | MemoryError | UserError) -> SharedError:
        """Return the error that every rank raises for this rank's."""
        words = f"{self._folder}: rank {self._rank} could not write the checkpoint "
        words += f"({reason(error, self._folder)})"
        if may_pass(error, UNSEEN):
            return DiskError(words)
        if isinstance(error, UserError):
            return SharedError(str(error))
        return SharedError(f"{words}: mend the folder, then {advice(self._run)}")

    def _raise_if_superseded(self) -> None:
        """Another start removes what this one has half-written, which then fails for that alone."""
        problem: SharedError | None = None
        if self._rank == 0:
            try:
                self._check_fence()
            except SupersededError as error:
                problem = error
            except (OSError, UserError):  # the first problem is raised
                pass
        raise_first(problem, self._group)
