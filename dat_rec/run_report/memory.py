"""A run's plan in, the bytes of weights and optimizer state that each rank holds out."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from dat_rec.config import TrainConfig
from dat_rec.data.schema import Schema


class Held(NamedTuple):
    """Bytes."""

    weights: int
    state: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.weights + self.state


class Table(NamedTuple):
    """A row of the plan."""

    name: str
    sharding_type: str
    kernel: str
    rows: int
    dim: int
    held: dict[int, Held]
    """What each rank holds of it; one that holds nothing is left out."""

    @property
    def total(self) -> int:
        """Bytes on all ranks."""
        return sum(one.total for one in self.held.values())


def planned_tables(
    plan: Sequence[dict[str, Any]], schema: Schema, config: TrainConfig
) -> list[Table]:
    """Return what the plan's tables take, without inputs, outputs and gradients.

    A row of RowWiseAdagrad has a float32 sum in every shard that columns are cut into; Adagrad one
    for each weight.
    """
    rows_of = {feature.table: feature.rows for feature in schema.features}
    return [_table(row, rows_of, config) for row in plan]


def by_rank(tables: Sequence[Table], ranks: int) -> list[Held]:
    """Return what each of so many ranks holds."""
    parts = [[table.held[rank] for table in tables if rank in table.held] for rank in range(ranks)]
    return [Held(sum(one.weights for one in of), sum(one.state for one in of)) for of in parts]


def _table(row: dict[str, Any], rows_of: dict[str, int], config: TrainConfig) -> Table:
    name, model = row["table"], config.model
    size = 2 if any(fnmatchcase(name, pattern) for pattern in model.fp16_tables) else 4
    rowwise = config.optimizer.table == "rowwise_adagrad"

    def held(rows: int, dim: int) -> Held:
        return Held(rows * dim * size, 4 * rows * (1 if rowwise else dim))

    found: dict[int, Held] = {}
    shards = [(one["rank"], one["sizes"], one["offsets"]) for one in row["shards"]]
    for rank, (rows, dim), _ in shards:
        before, one = found.get(rank, Held(0, 0)), held(rows, dim)
        found[rank] = Held(before.weights + one.weights, before.state + one.state)
    if shards:
        ends = [[o + s for o, s in zip(at, of, strict=True)] for _, of, at in shards]
        rows, dim = (max(end[axis] for end in ends) for axis in (0, 1))
    else:
        # Data-parallel: whole on each rank.
        augmented = name.startswith("augmented_")
        rows = rows_of.get(name.removeprefix("augmented_") if augmented else name, 0)
        dim = model.output_dim if augmented else model.embedding_dim
        found = dict.fromkeys(row["ranks"], held(rows, dim))
    return Table(name, row["sharding_type"], row["compute_kernel"], rows, dim, found)
