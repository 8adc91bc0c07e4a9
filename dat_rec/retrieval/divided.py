"""Rows of a matrix divided over the ranks: each rank holds a block of them, and asks for any.

What is asked for travels as it is: unlike a sum of the ranks' parts, as TorchRec's row-wise lookup
gives for a bag of values, it has the same bits on any number of ranks.
"""

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.checkpoint.damage import rank_and_ranks

Ints = NDArray[np.int64]
Number = TypeVar("Number", np.uint64, np.int64, np.int32, np.float32)


@dataclass(frozen=True)
class DividedRows:
    """(N, D) numbers, of which rank r holds the rows ``bounds[r]`` to ``bounds[r + 1]``."""

    local: Tensor
    """(rows, D) on this rank."""
    bounds: Ints
    """(W + 1,), rising from 0 to N; the same on all ranks."""
    file: mmap.mmap | None = None
    """That ``local`` is mapped from; None: it is this process's memory."""

    def let_go(self) -> None:
        """Give the pages back that were read of the file; they are read again where needed."""
        if self.file is not None:
            self.file.madvise(mmap.MADV_DONTNEED)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.local.shape[1])


_groups: list[dist.ProcessGroup] = []
"""That of the innermost ``messages_over``, last."""


@contextmanager
def messages_over(chosen: dist.ProcessGroup | None) -> Iterator[None]:
    """Let the ranks' messages of the block go over another group than the default one.

    They are tensors on the CPU, of which NCCL, the default group of training on GPUs, takes none.

    Args:
        chosen: a gloo group of all ranks; None: the default one.
    """
    if chosen is None:
        yield
        return
    _groups.append(chosen)
    try:
        yield
    finally:
        _groups.pop()


def group() -> dist.ProcessGroup | None:
    """Return the group that messages go over; None: the default one."""
    return _groups[-1] if _groups else None


def equal_bounds(rows: int, step: int = 1) -> Ints:
    """(W + 1,): where ``rows`` rows are cut for the ranks, at multiples of ``step``."""
    steps, ranks = -(-rows // step), rank_and_ranks()[1]
    return np.minimum(np.arange(ranks + 1) * steps // ranks * step, rows)


def own_range(bounds: Ints) -> tuple[int, int]:
    """Return the first row of this rank, and the one behind its last."""
    rank = rank_and_ranks()[0]
    return int(bounds[rank]), int(bounds[rank + 1])


def fetch(wanted: Sequence[tuple[DividedRows, Tensor]]) -> list[Tensor]:
    """Fetch rows from the ranks that hold them. Collective, with three messages in all.

    Args:
        wanted: matrices, the same on all ranks in the same order; of each, the (M,) int64 numbers
            of the rows that this rank wants, which may be none, rising.

    Returns:
        The (M, D) float32 rows of each.
    """
    if rank_and_ranks()[1] == 1:
        return [_take(rows, numbers) for rows, numbers in wanted]
    asked = _ask(wanted)
    answers: list[list[Tensor]] = []
    for of_rank in asked:
        answers.append([])
        for (rows, _), numbers in zip(wanted, of_rank, strict=True):
            first = own_range(rows.bounds)[0]
            answers[-1].append(_take(rows, numbers - first).flatten())
    ends = [_ends(rows, numbers) for rows, numbers in wanted]
    dims = [rows.dim for rows, _ in wanted]
    sizes = [
        sum(int(end[rank + 1] - end[rank]) * dim for end, dim in zip(ends, dims, strict=True))
        for rank in range(len(asked))
    ]
    arrived = _exchange([torch.cat(parts) for parts in answers], sizes)
    found: list[list[Tensor]] = [[] for _ in wanted]
    for rank, message in enumerate(arrived):
        lengths = [
            int(end[rank + 1] - end[rank]) * dim for end, dim in zip(ends, dims, strict=True)
        ]
        for number, part in enumerate(message.split(lengths)):
            found[number].append(part.view(-1, dims[number]))
    return [torch.cat(parts) for parts in found]


def _take(rows: DividedRows, places: Tensor) -> Tensor:
    """Return rows of this rank, float32 and on the CPU: those of live tables may be on a GPU."""
    return rows.local.index_select(0, places.to(rows.local.device)).float().cpu()


def _ask(wanted: Sequence[tuple[DividedRows, Tensor]]) -> list[list[Tensor]]:
    """Tell every rank which rows of each matrix are wanted of it; return what they want, by rank.

    Two messages: how many, and which.
    """
    ranks = rank_and_ranks()[1]
    ends = np.stack([_ends(rows, numbers) for rows, numbers in wanted])
    counts = torch.from_numpy(np.diff(ends).T.copy())
    theirs = torch.empty_like(counts)
    dist.all_to_all_single(theirs, counts, group=group())
    questions = [
        torch.cat(
            [numbers[end[r] : end[r + 1]] for (_, numbers), end in zip(wanted, ends, strict=True)]
        )
        for r in range(ranks)
    ]
    arrived = _exchange(questions, theirs.sum(dim=1).tolist())
    return [list(one.split(row)) for one, row in zip(arrived, theirs.tolist(), strict=True)]


def _ends(rows: DividedRows, numbers: Tensor) -> Ints:
    """(W + 1,): where in the rising ``numbers`` each rank's begin."""
    return np.searchsorted(numbers.numpy(), rows.bounds)


def _exchange(parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Send each rank its part; return what came from each, of ``sizes`` numbers."""
    received = parts[0].new_empty(sum(sizes))
    own = [len(part) for part in parts]
    dist.all_to_all_single(received, torch.cat(list(parts)), list(sizes), own, group=group())
    return list(received.split(list(sizes)))


def gather(own: NDArray[Number]) -> NDArray[Number]:
    """Join the arrays of all ranks, in the ranks' order. Collective.

    Args:
        own: this rank's, of any length; all others of the shape, and the dtype, are the same.
    """
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return own
    lengths = torch.empty(ranks, dtype=torch.int64)
    dist.all_gather_into_tensor(lengths, torch.tensor([len(own)]), group=group())
    most = int(lengths.max())
    # gloo knows no unsigned numbers: bytes travel.
    padded = np.zeros((most, *own.shape[1:]), own.dtype)
    padded[: len(own)] = own
    sent = torch.from_numpy(padded.reshape(most, -1).view(np.uint8).copy())
    arrived = [torch.empty_like(sent) for _ in range(ranks)]
    dist.all_gather(arrived, sent, group=group())
    parts = [
        one.numpy()[:length].view(own.dtype).reshape(length, *own.shape[1:])
        for one, length in zip(arrived, lengths.tolist(), strict=True)
    ]
    return np.concatenate(parts)


def sum_of_ranks(own: NDArray[Any]) -> NDArray[Any]:
    """Add the arrays of all ranks up. Collective; the sum of float64 counts is exact."""
    if rank_and_ranks()[1] == 1:
        return own
    total = torch.from_numpy(own.copy())
    dist.all_reduce(total, group=group())
    return total.numpy()


class Messages(NamedTuple):
    """What the ranks tell one another of their arrays; each call is collective."""

    add_up: Callable[[NDArray[Any]], NDArray[Any]]
    """Returns the sum of all ranks' arrays."""
    gather: Callable[[NDArray[Any]], NDArray[Any]]
    """Returns all ranks' arrays, joined at their first dimension in the ranks' order."""


BETWEEN_RANKS = Messages(sum_of_ranks, gather)
ALONE = Messages(lambda own: own, lambda own: own)
"""For one process that asks nobody, whatever group it is in."""
