"""Cut logits into blocks that fit the cache: some queries, and one block of candidates at a time.

Shapes: B queries in groups of R, N candidates in M blocks of C.
"""

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

CACHE_LINE = 64
"""Bytes."""


class BlockSize(NamedTuple):
    """How many logits are computed at once."""

    logits: int
    """Logits of a block; on CPU, as many as stay in the cache."""
    candidates: int
    """Maximum number of candidates in a block: the rest of its logits are more queries."""
    held: int
    """Maximum number of logits in all blocks of the same queries: with very many candidates,
    fewer queries are taken at once."""


BLOCK_SIZE = {
    "cpu": BlockSize(2**20, 2**11, 2**26),
    "cuda": BlockSize(2**26, 2**22, 2**26),
}
"""The block's size by type of device."""


class Blocks(NamedTuple):
    """Room for the logits of R queries, and how candidates are cut into blocks."""

    logits_MRS: Tensor
    """(M, R, S): a row has S numbers, C or more, for the sake of the cache. If they are not held,
    all blocks are the same memory."""
    columns: int
    """C, the number of candidates in a block; the last one may have fewer."""

    @staticmethod
    def of(query_BD: Tensor, candidates: int, *, held: bool = True) -> "Blocks":
        """Blocks that fit the cache.

        A row is an odd number of cache lines long, since rows a power of two apart share the
        cache's sets, and push one another out.

        Args:
            query_BD: (B, D); the logits have its dtype and device.
            candidates: N.
            held: whether each of the M blocks has room of its own; else they share one's.
        """
        size = BLOCK_SIZE.get(query_BD.device.type, BLOCK_SIZE["cuda"])
        blocks = -(-candidates // size.candidates)
        columns = -(-candidates // max(1, blocks))
        number = query_BD.element_size()
        lines = (columns * number + CACHE_LINE - 1) // CACHE_LINE | 1
        stride = lines * CACHE_LINE // number
        apart = blocks if held else 1
        rows = min(size.logits // stride, size.held // max(1, apart * stride), len(query_BD))
        room_MRS = query_BD.new_empty(apart, max(1, rows), stride)
        return Blocks(room_MRS.expand(blocks, -1, -1), max(1, columns))

    def groups(self, queries: int) -> list[slice]:
        """The queries that are taken at once, R at a time."""
        return cut(queries, self.logits_MRS.shape[1])


def cut(total: int, size: int) -> list[slice]:
    """0 … total in slices of ``size``; the last one may be smaller."""
    return [slice(*ends) for ends in pairwise([*range(0, total, size), total])]
