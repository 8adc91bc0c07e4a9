"""Initial weights of the tables, which depend on random seed, table and row alone.

Each rank fills its own shards, block of rows by block of rows, from a counter-based generator. No
table is ever made whole, and every plan and world size starts the same.
"""

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dat_rec.data.schema import UNKNOWN
from dat_rec.sharding.table_shards import TableShard, table_shards

BLOCK_ROWS = 4096
"""Rows that one draw of the generator fills."""


def initialize_tables(model: nn.Module, seed: int, scale: float) -> None:
    """Fill every embedding table with uniform numbers in ±scale / √dim; row 0 with zeros.

    Row 0 stands for unknown ids: a zero vector says nothing, where a random one would
    say something false.

    Args:
        model: holds EmbeddingBagCollections, sharded or not.
        seed: the run's random seed.
        scale: half the width of the distribution, times √dim.
    """
    for shard in table_shards(model):
        initialize_shard(shard, seed, scale)


def initialize_shard(shard: TableShard, seed: int, scale: float) -> None:
    """Fill one shard with the numbers that the whole table has there."""
    dim = shard.shape[1]
    bound = scale / dim**0.5
    row, column, weights = shard.row, shard.column, shard.weights
    rows, columns = weights.shape
    table = shard.table.rsplit(".", 1)[1]
    for block in range(row // BLOCK_ROWS, -(-(row + rows) // BLOCK_ROWS)):
        first = block * BLOCK_ROWS
        start, stop = max(first, row), min(first + BLOCK_ROWS, row + rows)
        numbers = _block(seed, table, block, dim, bound)
        own = numbers[start - first : stop - first, column : column + columns]
        part = weights[start - row : stop - row]
        if part.device.type == "cpu":
            # By NumPy: torch's threads would spend more on waiting for one another.
            part.numpy()[:] = own
        else:
            part.copy_(torch.from_numpy(own.copy()))


def fill_rows(
    model: nn.Module, table: str, rows: NDArray[np.int64], values: NDArray[np.float32]
) -> None:
    """Write some rows of a table, of which each rank keeps what lies in its shards.

    Args:
        model: holds the table, sharded or not.
        table: module and name, as in ``dat.embeddings.item``.
        rows: (n,) their numbers, each once.
        values: (n, D), the same on all ranks.
    """
    for shard in table_shards(model):
        if shard.table == table:
            here = (rows >= shard.row) & (rows < shard.row + shard.weights.shape[0])
            own = values[here, shard.column : shard.column + shard.weights.shape[1]]
            target = torch.from_numpy(rows[here] - shard.row).to(shard.weights.device)
            shard.weights[target] = torch.from_numpy(own).to(shard.weights)


def _block(seed: int, table: str, block: int, dim: int, bound: float) -> NDArray[np.float32]:
    """Return (BLOCK_ROWS, dim) uniform numbers in ±bound for one block of a table's rows."""
    key = [seed, zlib.crc32(table.encode())]
    rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, block, 0]))
    numbers = rng.random((BLOCK_ROWS, dim), np.float32)
    numbers *= np.float32(2 * bound)
    numbers -= np.float32(bound)
    if block == 0:
        numbers[UNKNOWN] = 0
    return numbers
