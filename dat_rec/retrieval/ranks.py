"""The ranks of one command: evaluation, export and recommendations run on any number of them.

They work on CPU: a host's memory holds its share of the tables, and the same arithmetic gives
the same bits on any number of ranks. For that, matrix products must have the same shapes, and each
must be computed by one thread: PyTorch cuts them by the number of threads, and the last bit may
follow. Several products are computed side by side.
"""

import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.dist.agree import broadcast_from_rank_0, together
from dat_rec.dist.process_group import process_group
from dat_rec.errors import StoppedError, UserError
from dat_rec.storage.address import Location

T = TypeVar("T")
R = TypeVar("R")
TIMEOUT_S = 300
"""Maximum number of seconds to wait for another rank's message."""


@contextmanager
def all_ranks() -> Iterator[None]:
    """Join the ranks that the launcher has started, or be alone; a failure on one rank ends all.

    Where there is a process group already, it is used.

    Raises:
        UserError: the launcher's environment contradicts itself.
        RankError: another rank failed or died.
        StoppedError: SIGTERM came.
    """
    if dist.is_initialized():
        yield
        return
    with _stopped_by_sigterm(), process_group(TIMEOUT_S, device="cpu"):
        yield


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise StoppedError("stopped by SIGTERM; nothing was written: start it again")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def folder_of_all_ranks(
    publication: ExitStack, whole: AbstractContextManager[Path], out: Location
) -> Path:
    """Return the folder that all ranks fill. Collective.

    Args:
        publication: of rank 0; it publishes the folder when it is closed.
        whole: makes the folder, on rank 0.
        out: where it is to be published, for messages.

    Raises:
        UserError: the folder cannot be made, or a rank does not see it.
    """
    found: list[Path] = []
    with together():
        if rank_and_ranks()[0] == 0:
            found.append(publication.enter_context(whole))
    folder: Path = broadcast_from_rank_0(found[0] if found else None)
    with together():
        if not folder.is_dir():
            raise UserError(
                f"--out {out}: rank 0 fills {folder}, which {platform.node()} does not see: name a "
                "folder that all hosts share, or start all ranks on one host"
            )
    return folder


@dataclass(frozen=True)
class Threads:
    """Threads that compute side by side, each its own matrix products."""

    number: int
    _pool: ThreadPoolExecutor

    def map(self, function: Callable[[T], R], arguments: Iterable[T]) -> list[R]:
        """Return what the function makes of each argument, in their order."""
        return list(self._pool.map(function, arguments))

    def in_turns(self, function: Callable[[int], None], times: int) -> None:
        """Call the function with 0 … times − 1; each thread takes every ``number``-th."""

        def turns(first: int) -> None:
            for number in range(first, times, self.number):
                function(number)

        self.map(turns, range(self.number))


@contextmanager
def one_thread_each() -> Iterator[Threads]:
    """Yield as many threads as PyTorch has; in the block, each of its products takes only one."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(number) as pool:
            yield Threads(number, pool)
    finally:
        torch.set_num_threads(number)
