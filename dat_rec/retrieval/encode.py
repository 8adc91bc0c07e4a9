"""A model and a dataset in, vectors out: of items and of users, each rank a share.

Rows with the same features are encoded once, and so have the same vector to the last bit. Rows are
encoded in blocks, which are the same on any number of ranks: so are the vectors.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.columns import Column
from dat_rec.data.dataset import Dataset
from dat_rec.data.dense import AnyColumn, parted
from dat_rec.data.schema import ITEM, UNKNOWN, Schema
from dat_rec.data.stream.batch import to_kjt
from dat_rec.dist.agree import all_gather_object, together
from dat_rec.model.dat import DAT, TowerInputs
from dat_rec.retrieval.distinct import Distinct, kinds
from dat_rec.retrieval.divided import DividedRows, equal_bounds, group, own_range
from dat_rec.retrieval.feature_rows import FeatureRows
from dat_rec.retrieval.ranks import Threads

Ints = NDArray[np.int64]
Side = Callable[[DAT, TowerInputs], tuple[nn.Module, Tensor]]
ROWS = 8192
"""Number of rows that are looked up at once."""
TOWER_ROWS = 2048
"""Number of rows that go through a tower at once."""


class EncodedBlock(NamedTuple):
    """The vectors of some kinds of rows."""

    start: int
    """Number of the first kind."""
    vectors: Tensor
    """(B, D) float32: unit vectors, and what popularity adds behind them where it has a weight."""


class EncodedItems(NamedTuple):
    """Item vectors p_v of the whole catalogue, those of one kind once, divided over the ranks."""

    rows: DividedRows
    """(K, D) float32: those of K kinds of items."""
    kind: Ints
    """(items,): the kind of each item; row = item_index."""


def encode_items(model: DAT, dataset: Dataset, threads: Threads) -> EncodedItems:
    """Encode the catalogue. Collective.

    Raises:
        UserError: a file cannot be read, or holds what is no feature.
    """
    source = FeatureRows(dataset, "items")
    alike = kinds(source.hashes(np.arange(source.rows)))
    blocks = list(encode_blocks(model, dataset.schema, source, alike.first, item_tower, threads))
    own = [block.vectors for block in blocks]
    return EncodedItems(DividedRows(torch.cat(own), _bounds(len(alike.first))), alike.kind)


def user_kinds(dataset: Dataset, user_rows: Ints) -> tuple[FeatureRows, Distinct]:
    """Sort users, whose row numbers rise, into kinds of the same features. Collective."""
    source = FeatureRows(dataset, "users")
    return source, kinds(source.hashes(user_rows))


def encode_blocks(
    model: DAT,
    schema: Schema,
    source: FeatureRows,
    rows: Ints,
    side: Side,
    threads: Threads,
) -> Iterator[EncodedBlock]:
    """Encode rows, this rank's share of them block by block; every rank yields as many blocks.

    Collective: all ranks ask for a block at the same time, those that have none for an empty one.

    Args:
        model: of ``load_model``.
        schema: the dataset's.
        source: holds the rows.
        rows: (K,) numbers of rows, rising.
        side: ``item_tower`` or ``query_tower``.
        threads: that compute side by side.
    """
    start, stop = own_range(_bounds(len(rows)))
    for first in range(start, start + rounds(len(rows)) * ROWS, ROWS):
        own = rows[min(first, stop) : min(first + ROWS, stop)]
        with together():
            columns = source.take(own)
        yield EncodedBlock(first, _encode(model, schema, columns, side, threads))


def rounds(rows: int) -> int:
    """Return how many blocks ``encode_blocks`` yields on each rank."""
    return max(1, -(-int(np.diff(_bounds(rows)).max()) // ROWS))


def each_ranks_block(own: EncodedBlock) -> Iterator[EncodedBlock]:
    """Yield every rank's block to all, one at a time; empty ones are left out. Collective."""
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        if len(own.vectors):
            yield own
        return
    shapes = all_gather_object((own.start, own.vectors.shape))
    for rank, (start, shape) in enumerate(shapes):
        if shape[0]:
            vectors = own.vectors if rank == rank_and_ranks()[0] else torch.empty(shape)
            dist.broadcast(vectors, rank, group=group())
            yield EncodedBlock(start, vectors)


def encode_queries(
    model: DAT, schema: Schema, columns: Mapping[str, AnyColumn], threads: Threads
) -> Tensor:
    """Query vectors p_u of rows of the query features. Collective: each rank brings its own.

    Returns:
        (rows, D) float32: unit vectors, and a 1 behind them where popularity has a weight.
    """
    return _encode(model, schema, columns, query_tower, threads)


def encode_unknown_items(
    model: DAT, schema: Schema, columns: Mapping[str, AnyColumn], threads: Threads
) -> tuple[Tensor, dict[str, AnyColumn]]:
    """Item vectors of rows of the item features, as if no id were known. Collective.

    Returns:
        (rows, D) float32, and the columns with the row of unknown ids.
    """
    unknown = Column(np.full(len(columns[ITEM]), UNKNOWN), None)
    asked = {**columns, ITEM: unknown}
    return _encode(model, schema, asked, item_tower, threads), asked


def query_tower(model: DAT, inputs: TowerInputs) -> tuple[nn.Module, Tensor]:
    """The tower of users, and what goes into it."""
    return model.query_tower, inputs.query_BF


def item_tower(model: DAT, inputs: TowerInputs) -> tuple[nn.Module, Tensor]:
    """The tower of items, and what goes into it."""
    return model.item_tower, inputs.items_BF[0]


@torch.no_grad()
def _encode(
    model: DAT, schema: Schema, columns: Mapping[str, AnyColumn], side: Side, threads: Threads
) -> Tensor:
    keys = [feature.name for feature in schema.features]
    rows = len(next(iter(columns.values())))
    # A KeyedJaggedTensor has one row at least, with empty bags.
    of_ids, of_dense = parted(columns)
    dense = {name: torch.from_numpy(column.values) for name, column in of_dense.items()}
    inputs = model.look_up(to_kjt(of_ids, keys, max(1, rows)), dense)
    tower, inputs_BF = side(model, inputs)
    parts = threads.map(tower, inputs_BF[:rows].split(TOWER_ROWS))
    vectors = torch.cat(parts).float()
    if model.popularity_R is None:
        return vectors
    last = torch.ones(rows)
    if side is item_tower:
        last = model.popularity_R[torch.from_numpy(columns[ITEM].values.astype(np.int64))]
    return torch.cat([vectors, last.unsqueeze(1)], dim=1)


def _bounds(rows: int) -> Ints:
    return equal_bounds(rows, ROWS)
