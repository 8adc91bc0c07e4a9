"""RowWiseAdagrad over whole rows where a table's columns are sharded.

RowWiseAdagrad divides a row's gradient by the root of its accumulator, the sum over steps of the
mean of g² over all D columns. FBGEMM takes that mean over the columns of its shard, so that a table
in column shards would learn by another rule under every plan. Here the shards of a row exchange
their squares before the update: every plan updates as the unsharded table would.

A hook stands between lookup and output exchange, and its backward runs before FBGEMM's fused
update. FBGEMM adds the mean of g² over its own columns to the accumulator; the hook first adds what
is missing to the mean over the whole row. The host of a GPU waits for the number of different rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbeddingBag
from torchrec.distributed.embedding_lookup import GroupedPooledEmbeddingsLookup
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import EnumerableShardingSpec
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dat_rec.sharding_rules import BY_COLUMN


def keep_whole_rows(model: nn.Module) -> None:
    """Add ``WholeRows`` to a sharded model with column-sharded tables."""
    lookups, keys, group = [], [], None
    for module in model.modules():
        if not isinstance(module, ShardedEmbeddingBagCollection):
            continue
        for kind, lookup in zip(module._sharding_types, module._lookups, strict=True):
            if kind in BY_COLUMN and not isinstance(lookup, DistributedDataParallel):
                lookups.append(lookup)
                keys.append(_row_blocks(module, kind))
                # With copies of the tables, the process group is that of all copies.
                group = getattr(module._env, "sharding_pg", module._env.process_group)
    if lookups:
        model.add_module("whole_rows", WholeRows(lookups, keys, group))


def _row_blocks(module: ShardedEmbeddingBagCollection, kind: str) -> list[tuple[str, int]]:
    """Return (table, first row) of all shards of a type, in an order that all ranks share."""
    blocks = set()
    for table, sharding in module.module_sharding_plan.items():
        if sharding.sharding_type == kind:
            spec = cast(EnumerableShardingSpec, sharding.sharding_spec)
            blocks |= {(table, shard.shard_offsets[0]) for shard in spec.shards}
    return sorted(blocks)


@dataclass
class _Shard:
    """A table's shard on this rank, and where its features stand in the lookup's output."""

    key: tuple[str, int]
    """Table and first row; shards of the same rows have the same key on every rank."""
    kernel: BatchedFusedEmbeddingBag
    number: int
    """Its position among the kernel's tables."""
    dim: int
    """D, the number of columns of the whole row."""
    features: list[tuple[int, int]] = field(default_factory=list)
    """For each feature, its position among the lookup's and its first output column."""
    settled: tuple[Tensor, Tensor] | None = None
    """Rows of the last update, (rows,) int64, and their accumulators, (rows,), the same on every
    shard to the last bit."""

    @property
    def columns(self) -> int:
        """The number of columns of the shard."""
        return int(self.kernel.config.embedding_tables[self.number].local_cols)

    def accumulator(self) -> Tensor:
        """Return the kernel's (rows,) accumulator.

        It is changed between forward and backward, which autograd would refuse if it knew: hence
        ``.data``.
        """
        sums: Tensor = self.kernel.emb_module.get_optimizer_state()[self.number]["sum"].data
        return sums


class WholeRows(nn.Module):
    """Keeps the accumulators of a model's column-sharded tables those of whole rows.

    Args:
        lookups: those of the column-wise, table-column-wise and grid shardings, in the same order
            on every rank, whether the rank holds shards or not.
        keys: for each lookup every (table, first row) that is cut by columns, in the same order
            on every rank.
        group: the ranks that share one copy of the tables; None for all.
    """

    def __init__(
        self,
        lookups: Sequence[GroupedPooledEmbeddingsLookup],
        keys: Sequence[Sequence[tuple[str, int]]],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self._group = group
        self._shards: list[_Shard] = []
        for lookup, its_keys in zip(lookups, keys, strict=True):
            shards = _shards_of(lookup)
            self._shards += shards
            lookup.register_forward_hook(_Hook(self, shards, list(its_keys)))

    def settle(self) -> None:
        """Give all shards of a row the same accumulator, to the last bit.

        FBGEMM's additions may round otherwise on each. Called before the next lookup, and before
        anything reads the accumulators.
        """
        for shard in self._shards:
            if shard.settled is not None:
                rows, sums = shard.settled
                shard.accumulator()[rows] = sums
                shard.settled = None


class _Hook:
    """A forward hook of a lookup, which puts ``_Exchange`` behind its output."""

    def __init__(self, owner: WholeRows, shards: list[_Shard], keys: list[tuple[str, int]]) -> None:
        self.owner = owner
        self.shards = shards
        self.keys = keys

    def __call__(
        self, _: nn.Module, inputs: tuple[KeyedJaggedTensor], output: Tensor
    ) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        self.owner.settle()
        exchanged: Tensor = _Exchange.apply(output, self, inputs[0])  # type: ignore[no-untyped-call]
        return exchanged


class _Exchange(torch.autograd.Function):
    """The identity; its backward completes the accumulators before the update."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, hook: _Hook, features: KeyedJaggedTensor) -> Tensor:
        ctx.hook, ctx.features = hook, features
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        hook = ctx.hook
        own = [_squares(shard, ctx.features, gradient) for shard in hook.shards]
        whole = _sum_over_shards(hook, own, gradient.device)
        for shard, (rows, squares) in zip(hook.shards, own, strict=True):
            mean = whole[shard.key] / shard.dim
            accumulator = shard.accumulator()
            settled = accumulator[rows] + mean.to(accumulator.dtype)
            accumulator[rows] = settled - (squares / shard.columns).to(accumulator.dtype)
            shard.settled = rows, settled
        return gradient, None, None


def _squares(shard: _Shard, features: KeyedJaggedTensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shard's rows in this batch and their squares.

    Args:
        shard: with ``columns`` columns.
        features: the lookup's input, ids of B examples.
        gradient: (B, output columns) of the lookup's output.

    Returns:
        (rows,) int64, ascending, and (rows,) float64, |g|² over the shard's columns.
    """
    rows, gradients = [], []
    lengths = features.lengths().view(len(features.keys()), -1)
    offsets = features.offset_per_key()
    for number, column in shard.features:
        values = features.values()[offsets[number] : offsets[number + 1]]
        own = gradient[:, column : column + shard.columns]
        rows.append(values)
        gradients.append(own.repeat_interleave(lengths[number], dim=0, output_size=len(values)))
    unique, positions = torch.cat(rows).unique(return_inverse=True)
    summed = gradient.new_zeros(len(unique), shard.columns)
    summed.index_add_(0, positions, torch.cat(gradients))
    return unique, summed.double().square().sum(dim=1)


def _sum_over_shards(
    hook: _Hook, own: list[tuple[Tensor, Tensor]], device: torch.device
) -> dict[tuple[str, int], Tensor]:
    """Return (rows,) float64, |g|² of each row over all columns, by key. Collective.

    Ranks without shards call it too. All shards of the same rows see the same ids, so that their
    rows line up.
    """
    counts = torch.zeros(len(hook.keys), dtype=torch.int64, device=device)
    for shard, (rows, _) in zip(hook.shards, own, strict=True):
        counts[hook.keys.index(shard.key)] = len(rows)
    dist.all_reduce(counts, dist.ReduceOp.MAX, group=hook.owner._group)
    starts = [0, *counts.cumsum(0).tolist()]
    total = torch.zeros(starts[-1], dtype=torch.float64, device=device)
    for shard, (rows, squares) in zip(hook.shards, own, strict=True):
        start = starts[hook.keys.index(shard.key)]
        total[start : start + len(rows)] += squares
    dist.all_reduce(total, group=hook.owner._group)
    return {
        key: total[start:stop]
        for key, start, stop in zip(hook.keys, starts[:-1], starts[1:], strict=True)
    }


def _shards_of(lookup: GroupedPooledEmbeddingsLookup) -> list[_Shard]:
    """Return the shards of a lookup, whose kernels stand in the order of its output columns."""
    shards: list[_Shard] = []
    feature = column = 0
    for kernel in lookup._emb_modules:
        for number, config in enumerate(kernel.config.embedding_tables):
            key = (config.name, config.local_metadata.shard_offsets[0])
            shard = _Shard(key, kernel, number, config.embedding_dim)
            for _ in config.feature_names:
                shard.features.append((feature, column))
                feature += 1
                column += config.local_cols
            shards.append(shard)
    return shards
