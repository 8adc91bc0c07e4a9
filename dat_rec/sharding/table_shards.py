"""The shards of a model's tables on this rank: their weights, accumulators, and offsets.

TorchRec's own state dicts depend on the plan: RowWiseAdagrad's state of a table in column shards is
N × shards long, data-parallel tables have none. A ``TableShard`` says the same under every plan:
these rows and columns of that table, and the squared gradients summed up for them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.batched_embedding_kernel import (
    BatchedDenseEmbeddingBag,
    BatchedFusedEmbeddingBag,
)
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from dat_rec.sharding.rowwise_adagrad import WholeRows


@dataclass(frozen=True)
class TableShard:
    """A block of a table on this rank, from ``row`` and ``column`` on."""

    table: str
    """Module and table, as in ``dat.embeddings.item``; the same under every plan."""
    row: int
    """First row of the shard in the table."""
    column: int
    """First column of the shard in the table."""
    weights: Tensor
    """(rows, columns), in the table's dtype; a view of the kernel's memory."""
    shape: tuple[int, int]
    """(N, D), the shape of the whole table."""
    replicated: bool = False
    """Whether every rank has the same whole table (data-parallel)."""
    accumulator: Tensor | None = None
    """float32 sums of squared gradients, a view of the optimizer's memory: (rows,), of their mean
    over D, by RowWiseAdagrad, or (rows, columns) by Adagrad. None in a model that is not sharded,
    or before the optimizer of a dense kernel is there."""


def plain_name(name: str) -> str:
    """Return a parameter's or module's name without what TorchRec wraps around it."""
    return name.removeprefix("_dmp_wrapped_module.")


def table_shards(model: nn.Module, optimizer: CombinedOptimizer | None = None) -> list[TableShard]:
    """Return the shards of all tables on this rank, in an order that the plan decides.

    Args:
        model: sharded or not.
        optimizer: holds the accumulators of tables with the dense kernel; None to leave these out.
    """
    for module in model.modules():
        if isinstance(module, WholeRows):
            module.settle()
    return list(_shards(model, dense_accumulators(optimizer)))


def _shards(model: nn.Module, accumulators: Mapping[str, Tensor]) -> Iterator[TableShard]:
    for name, module in model.named_modules():
        collection = plain_name(name)
        if isinstance(module, ShardedEmbeddingBagCollection):
            for kernel in fbgemm_kernels(module):
                # A GPU's cache of a table in host memory: written back, and not trusted after
                # the shard may have been changed.
                kernel.flush()
                kernel.purge()
                yield from _shards_of_kernel(collection, kernel, accumulators)
        elif isinstance(module, EmbeddingBagCollection):
            for table, bag in module.embedding_bags.items():
                weights = bag.weight.detach()
                yield TableShard(f"{collection}.{table}", 0, 0, weights, tuple(weights.shape))


def fbgemm_kernels(
    module: ShardedEmbeddingBagCollection,
) -> Iterator[BatchedFusedEmbeddingBag | BatchedDenseEmbeddingBag]:
    """Yield FBGEMM's kernels of a sharded collection on this rank, each with several tables."""
    for lookup in module._lookups:
        inner = lookup.module if isinstance(lookup, DistributedDataParallel) else lookup
        yield from inner._emb_modules


def _shards_of_kernel(
    collection: str,
    kernel: BatchedFusedEmbeddingBag | BatchedDenseEmbeddingBag,
    accumulators: Mapping[str, Tensor],
) -> Iterator[TableShard]:
    configs = kernel.config.embedding_tables
    fused = isinstance(kernel, BatchedFusedEmbeddingBag)
    states = kernel.emb_module.get_optimizer_state() if fused else [{}] * len(configs)
    for config, weights, state in zip(
        configs, kernel.split_embedding_weights(), states, strict=True
    ):
        table = f"{collection}.{config.name}"
        metadata = config.local_metadata
        row, column = metadata.shard_offsets if metadata is not None else (0, 0)
        yield TableShard(
            table=table,
            row=row,
            column=column,
            weights=weights.detach().view(config.local_rows, config.local_cols),
            shape=(config.num_embeddings, config.embedding_dim),
            replicated=metadata is None,
            accumulator=state["sum"] if fused else accumulators.get(table),
        )


def dense_tables(model: nn.Module) -> set[str]:
    """Return the tables on this rank whose kernel gives dense gradients and updates nothing."""
    return {
        f"{plain_name(name)}.{config.name}"
        for name, module in model.named_modules()
        if isinstance(module, ShardedEmbeddingBagCollection)
        for kernel in fbgemm_kernels(module)
        if isinstance(kernel, BatchedDenseEmbeddingBag)
        for config in kernel.config.embedding_tables
    }


def dense_accumulators(optimizer: CombinedOptimizer | None) -> dict[str, Tensor]:
    """Return by table the accumulators of the tables with the dense kernel.

    Their shapes are those of fused kernels: (rows,) by RowWiseAdagrad, which has them as
    (rows, 1), and (rows, columns) by Adagrad.
    """
    found: dict[str, Tensor] = {}
    for _, part in optimizer.optimizers if optimizer is not None else ():
        if isinstance(part, KeyedOptimizerWrapper):
            for name, parameter in part.params.items():
                state = part.state.get(parameter, {})
                if "sum" in state:
                    # By the optimizer, not by the shape: a table may have one row or one column.
                    by_row = isinstance(part._optimizer, RowWiseAdagrad)
                    found[table_of(name)] = state["sum"].squeeze(1) if by_row else state["sum"]
    return found


def table_of(parameter: str) -> str:
    """Return a parameter's table, as in ``dat.embeddings.item``.

    The parameter is called ``…dat.embeddings.embedding_bags.item.weight``.
    """
    return plain_name(parameter).replace(".embedding_bags.", ".").removesuffix(".weight")


def is_table(parameter: str) -> bool:
    """Whether a parameter's name is that of an embedding table."""
    return ".embedding_bags." in parameter
