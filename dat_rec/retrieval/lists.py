"""Lists of items as tables of a row for each item, written block by block."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.retrieval.tower_file import MODEL_ID

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Lists(NamedTuple):
    """The lists of a block of B users (or items), and where the block begins among all."""

    start: int
    lists: Sequence[tuple[Ints, Floats]]
    """item_index and scores of each, best first."""

    def shorter_than(self, k: int) -> int:
        """How many have fewer than K items."""
        return sum(len(items) < k for items, _ in self.lists)

    def table(self, ids: pa.Array, item_ids: pa.Array, schema: pa.Schema) -> pa.Table:
        """A row for each item in each list: whose, rank from 1, item and score.

        Args:
            ids: of all who have lists.
            item_ids: (N,) of the export.
            schema: of ``list_schema``.
        """
        if len(self.lists) == 1:
            return _table_of_one(ids[self.start], *self.lists[0], item_ids, schema)
        lengths = np.array([len(items) for items, _ in self.lists], np.int64)
        whose = np.repeat(np.arange(self.start, self.start + len(lengths)), lengths)
        begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
        items = [np.empty(0, np.int64), *(items for items, _ in self.lists)]
        scores = [np.empty(0, np.float32), *(scores for _, scores in self.lists)]
        columns = [
            ids.take(pa.array(whose)),
            pa.array((np.arange(len(whose)) - begins + 1).astype(np.int32)),
            item_ids.take(pa.array(np.concatenate(items))),
            pa.array(np.concatenate(scores)),
        ]
        return pa.Table.from_arrays(columns, schema=schema)


def _table_of_one(
    name: pa.Scalar, items: Ints, scores: Floats, item_ids: pa.Array, schema: pa.Schema
) -> pa.Table:
    """The same of one list, for which numbers of rows need not be computed."""
    columns = [
        pa.repeat(name, len(items)),
        _ranks(len(items)),
        _taken(item_ids, items),
        pa.array(scores, pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _taken(item_ids: pa.Array, items: Ints) -> pa.Array:
    if pa.types.is_integer(item_ids.type):
        # Of a few, NumPy takes a third of the time.
        return pa.array(item_ids.to_numpy()[items], item_ids.type)
    return item_ids.take(pa.array(items, pa.int64()))


@lru_cache(8)
def _ranks(number: int) -> pa.Array:
    """The ranks of a list: 1, 2, and so on."""
    return pa.array(np.arange(1, number + 1, dtype=np.int32))


def write_lists(
    blocks: Iterator[Lists],
    k: int,
    ids: pa.Array,
    item_ids: pa.Array,
    schema: pa.Schema,
    path: Path,
    what: str,
) -> int:
    """Write lists, block by block, and show how far it is.

    Args:
        blocks: the lists.
        k: K.
        ids: of all who have lists.
        item_ids: (N,) of the export.
        schema: of ``list_schema``.
        path: the file to write.
        what: a word for what is done.

    Returns:
        How many lists have fewer than K items.
    """
    fewer = 0
    shown = tqdm(total=len(ids), desc=what, unit=" lists", disable=rank_and_ranks()[0] > 0)
    with pq.ParquetWriter(path, schema) as writer, shown:
        for block in blocks:
            writer.write_table(block.table(ids, item_ids, schema))
            fewer += block.shorter_than(k)
            shown.update(len(block.lists))
    return fewer


@lru_cache(16)
def list_schema(who: str, ids: pa.DataType, what: str, items: pa.DataType) -> pa.Schema:
    """The columns of lists: ``who``, rank (int32), ``what`` and score (float32)."""
    return pa.schema({who: ids, "rank": pa.int32(), what: items, "score": pa.float32()})


def vectors_table(ids: pa.Array, vectors_BD: Floats, model_id: str | None) -> pa.Table:
    """Ids of users and their vectors: user_id, and vector, D float32; and the id of the model."""
    flat = pa.array(np.ascontiguousarray(vectors_BD).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors_BD.shape[1])
    table = pa.table([ids, lists], ["user_id", "vector"])
    return table.replace_schema_metadata(None if model_id is None else {MODEL_ID: model_id})
