"""A model that is being trained in, the same as evaluation has it out; training does not notice.

Nothing goes through the sharded modules or TorchRec's pipeline, which holds batches back: rows come
from the shards' memory, wherever the plan has put them, and whole, as in ``tables.py``. So the
vectors are those that a checkpoint of now would give, to the last bit. No random number is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.dist.agree import all_gather_object
from dat_rec.model.dat import DAT
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.divided import DividedRows, equal_bounds, own_range
from dat_rec.retrieval.tables import FetchedTables
from dat_rec.retrieval.trained import DAT_NAME, without_tables
from dat_rec.sharding.table_shards import TableShard, is_table, plain_name, table_shards


class LiveModel:
    """What a sharded model would be without its sharding, on CPU and without gradients.

    Args:
        dataset: that it is trained on.
        config: of its run.
        sharded: the model; its tables' optimizers may be fused.
        tower: the tower that it is trained with, if it is not dat_rec's own.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: TrainConfig,
        sharded: nn.Module,
        tower: TowerFactory | None = None,
    ) -> None:
        self._sharded = sharded
        # New towers draw their first weights, which nobody wants: training's random numbers stay.
        with torch.random.fork_rng(devices=[]):
            model = without_tables(dataset, config, tower)
        model.embeddings = LiveTables(model.embeddings)
        self._tables = {"embeddings": model.embeddings}
        if model.augmented is not None:
            model.augmented = LiveTables(model.augmented)
            self._tables["augmented"] = model.augmented
        self._model = model.requires_grad_(False).eval()

    @torch.no_grad()
    def now(self) -> DAT:
        """Return the model with its weights of now, until training goes on. Collective."""
        theirs = {
            plain_name(name): parameter
            for name, parameter in self._sharded.named_parameters()
            if not is_table(name)
        }
        for name, parameter in self._model.named_parameters(DAT_NAME):
            parameter.copy_(theirs[name])
        blocks = column_blocks(table_shards(self._sharded))
        for name, tables in self._tables.items():
            prefix = f"{DAT_NAME}.{name}."
            tables.blocks = {
                table.removeprefix(prefix): found
                for table, found in blocks.items()
                if table.startswith(prefix)
            }
        return self._model


class LiveTables(FetchedTables):
    """The tables of a sharded model, as blocks of columns that are divided over the ranks.

    Args:
        collection: names the tables and their features.
    """

    def __init__(self, collection: EmbeddingBagCollection) -> None:
        super().__init__(collection)
        self.blocks: dict[str, list[DividedRows]] = {}
        """By the tables' names."""

    def parts(self) -> Mapping[str, Sequence[DividedRows]]:
        """See FetchedTables."""
        return self.blocks


class _Place(NamedTuple):
    """Where a rank's shard stands in its table."""

    column: int
    row: int
    rows: int
    columns: int
    replicated: bool


def column_blocks(own: Sequence[TableShard]) -> dict[str, list[DividedRows]]:
    """Return by table the blocks of columns that its shards make up, left to right. Collective.

    Of tables that several ranks hold (data-parallel, or copies in 2D parallelism) one holder of
    each row counts.

    Args:
        own: this rank's shards, which stay views of the model's memory.
    """
    here = {(shard.table, shard.column): shard.weights for shard in own}
    places = all_gather_object([(shard.table, _place(shard)) for shard in own])
    found: dict[str, dict[int, list[tuple[int, _Place]]]] = {}
    for rank, of_rank in enumerate(places):
        for table, place in of_rank:
            holders = found.setdefault(table, {}).setdefault(place.column, [])
            first = all(place.row != other.row for _, other in holders)
            if place.rows and (place.replicated or first):
                holders.append((rank, place))
    return {
        table: [
            _divided(here.get((table, column)), holders)
            for column, holders in sorted(columns.items())
        ]
        for table, columns in sorted(found.items())
    }


def _place(shard: TableShard) -> _Place:
    rows, columns = shard.weights.shape
    return _Place(shard.column, shard.row, rows, columns, shard.replicated)


def _divided(weights: torch.Tensor | None, holders: list[tuple[int, _Place]]) -> DividedRows:
    """Return a block of columns, of which ``weights`` are this rank's rows."""
    place = holders[0][1]
    if place.replicated:
        assert weights is not None
        bounds = equal_bounds(place.rows)
        start, stop = own_range(bounds)
        return DividedRows(weights[start:stop], bounds)
    counts = np.zeros(dist.get_world_size(), np.int64)
    for rank, held in holders:
        counts[rank] = held.rows
    bounds = np.append(0, np.cumsum(counts))
    # TorchRec puts a table's row shards on ranks that rise with them.
    assert all(held.row == bounds[rank] for rank, held in holders)
    if weights is None or not counts[dist.get_rank()]:
        weights = torch.empty(0, place.columns)
    return DividedRows(weights, bounds)
