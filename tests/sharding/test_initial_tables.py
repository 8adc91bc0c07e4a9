"""Initial tables: the same numbers however a table is cut, in the promised range."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.sharding.initial_tables import BLOCK_ROWS, initialize_shard, initialize_tables
from dat_rec.sharding.table_shards import TableShard

ROWS, DIM = 2 * BLOCK_ROWS + 100, 8
SCALE = 0.5


def whole(table: str = "item", rows: int = ROWS, dim: int = DIM, seed: int = 3) -> Tensor:
    """An unsharded table, initialised."""
    config = EmbeddingBagConfig(
        name=table, embedding_dim=dim, num_embeddings=rows, feature_names=["feature"]
    )
    model = nn.ModuleDict({"embeddings": EmbeddingBagCollection(tables=[config])})
    initialize_tables(model, seed, SCALE)
    weights: Tensor = model.state_dict()[f"embeddings.embedding_bags.{table}.weight"]
    return weights


def shards(rows: list[int], columns: list[int]) -> list[TableShard]:
    """The table "item" in shards between the given rows and columns, not yet filled."""
    return [
        TableShard(
            "dat.embeddings.item",
            row,
            column,
            torch.full((row_end - row, column_end - column), float("nan")),
            (ROWS, DIM),
        )
        for row, row_end in pairwise(rows)
        for column, column_end in pairwise(columns)
    ]


def joined(shards: list[TableShard]) -> Tensor:
    result = torch.full((ROWS, DIM), float("nan"))
    for shard in shards:
        height, width = shard.weights.shape
        part = slice(shard.row, shard.row + height), slice(shard.column, shard.column + width)
        result[part] = shard.weights
    return result


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([0, BLOCK_ROWS, 2 * BLOCK_ROWS, ROWS], [0, DIM]),
        ([0, BLOCK_ROWS - 1, BLOCK_ROWS + 1, ROWS], [0, DIM]),
        ([0, 1, 2, ROWS - 1, ROWS], [0, DIM]),
        ([0, 100, ROWS], [0, 3, DIM]),
        ([0, BLOCK_ROWS + 5, BLOCK_ROWS + 5, ROWS], [0, 4, DIM]),
    ],
)
def test_numbers_do_not_depend_on_the_cuts(rows: list[int], columns: list[int]) -> None:
    cut = shards(rows, columns)
    for shard in cut:
        initialize_shard(shard, 3, SCALE)
    assert torch.equal(joined(cut), whole())


def test_numbers_do_not_depend_on_the_number_of_rows() -> None:
    assert torch.equal(whole(rows=BLOCK_ROWS + 1), whole()[: BLOCK_ROWS + 1])


def test_row_0_is_zero_and_no_row_comes_twice() -> None:
    table = whole()
    assert not table[0].any()
    assert len(table.unique(dim=0)) == ROWS


@pytest.mark.parametrize("dim", [4, 64])
def test_numbers_are_uniform_within_scale_over_root_dim(dim: int) -> None:
    bound = SCALE / dim**0.5
    numbers = whole(dim=dim)[1:].flatten()
    assert numbers.abs().max() <= bound
    # As many in each tenth of the range, within five standard deviations.
    counts = torch.histc(numbers, bins=10, min=-bound, max=bound)
    expected = len(numbers) / 10
    assert (counts - expected).abs().max() < 5 * (0.9 * expected) ** 0.5


def test_tables_and_seeds_differ() -> None:
    tables = [whole("item"), whole("user"), whole("item", seed=4)]
    for number, table in enumerate(tables):
        for other in tables[:number]:
            assert not (table == other)[1:].all(dim=1).any()
