"""A model and a plan in, the same model sharded over all ranks out.

Sharding stands here alone: the model knows nothing of ranks.
"""

from typing import cast

import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.types import EnumerableShardingSpec, ModuleSharder, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import Adagrad, RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.sharding.codecs import codecs
from dat_rec.sharding.mean_gradients import MeanGradients
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.table_shards import table_shards
from dat_rec.sharding.whole_rows import WholeRows
from dat_rec.table_rules import BY_COLUMN, SHARDING_TYPES

EPS = 1e-8
"""Of the tables' Adagrad, in both kernels."""


class Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # TorchRec ships no types
    """TorchRec's sharder, with every type and kernel that works; the rules choose among them."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """All of them; TorchRec hides the row-wise ones on CPU, where they work."""
        return list(SHARDING_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Dense for data-parallel tables, and the fused ones for all others."""
        if sharding_type == "data_parallel":
            return ["dense"]
        uvm = ["fused_uvm", "fused_uvm_caching"] if compute_device_type == "cuda" else []
        return ["fused", *uvm]


def shard(
    model: nn.Module, plan: ShardingPlan, context: RankContext, options: ShardingOptions
) -> DistributedModelParallel:
    """Shard ``model``'s tables by ``plan``; their optimizer is fused into backward.

    Args:
        model: its EmbeddingBagCollections may be on the meta device; after ``fuse_optimizer``.
        plan: of every table, the same on all ranks.
        context: this rank's.
        options: how pooled embeddings travel, and how tables learn.
    """
    sharder = Sharder(
        fused_params={
            # Ids are checked where they are read; here they would train row 0, with a warning.
            "bounds_check_mode": BoundsCheckMode.FATAL,
            # Of float16 tables. On GPUs FBGEMM would round at random, from a generator that no
            # checkpoint holds: a resumed run would have other bits. On CPU it never does.
            "stochastic_rounding": False,
        },
        qcomm_codecs_registry=codecs(options.comms, context.device),
    )
    sharders = [cast(ModuleSharder[nn.Module], sharder)]
    if options.sharding_group_size:
        sharded: DistributedModelParallel = DMPCollection(
            model,
            device=context.device,
            plan=plan,
            world_size=context.world_size,
            sharding_group_size=options.sharding_group_size,
            # Which table_row_wise and grid_shard take for a host: as the planner does.
            node_group_size=ranks_together(context, options.sharding_group_size),
            global_pg=dist.GroupMember.WORLD,
            sharders=sharders,
            data_parallel_wrapper=MeanGradients(),
        )
    else:
        sharded = DistributedModelParallel(
            model,
            device=context.device,
            plan=plan,
            sharders=sharders,
            data_parallel_wrapper=MeanGradients(),
            # Alone, every gradient would be copied for nobody.
            init_data_parallel=context.world_size > 1,
            init_parameters=True,
        )
    # TorchRec puts tables on the device, and leaves the rest to the wrapper.
    sharded.module.to(context.device)
    if options.optimizer == "rowwise_adagrad":
        _keep_whole_rows(sharded)
    return sharded


def average_copies(model: DMPCollection) -> None:
    """Make the copies of the tables, and their optimizers' state, the same again."""
    # Looking at the shards settles what the update has left open, and empties caches: either
    # would else take the average's place.
    table_shards(model)
    model.sync()


def fuse_optimizer(model: nn.Module, options: ShardingOptions) -> None:
    """Give the tables their optimizer, which the planner counts the state of."""
    optimizer = RowWiseAdagrad if options.optimizer == "rowwise_adagrad" else Adagrad
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            # A fresh dict each time: TorchRec changes it in place.
            kwargs = {"lr": options.table_lr, "eps": EPS}
            apply_optimizer_in_backward(optimizer, module.parameters(), kwargs)


def check_options(context: RankContext, options: ShardingOptions) -> None:
    """Refuse what these ranks' devices cannot do.

    Raises:
        UserError: an option that needs GPUs on CPU, or groups of ranks that do not divide them.
    """
    on_cpu = context.device.type == "cpu"
    if on_cpu and options.comms == "bf16":
        raise UserError(
            "--comms bf16: between CPUs (gloo) TorchRec would silently send float16: pass "
            "--comms fp16 or fp32"
        )
    group = options.sharding_group_size
    if group and on_cpu:
        raise UserError(
            f"--sharding-group-size {group}: copies of the tables (TorchRec's DMPCollection) need "
            "GPUs: leave it out"
        )
    if group and (context.world_size % group or group == context.world_size):
        raise UserError(
            f"--sharding-group-size {group}: it must divide the {context.world_size} ranks, and be "
            "less"
        )
    copies, local = context.world_size // group if group else 1, context.local_world_size
    if local % copies and copies % local:
        raise UserError(
            f"--sharding-group-size {group}: the {copies} copies of the tables must divide the "
            f"{local} ranks of a host, or be a multiple: hosts would hold different parts of a copy"
        )


def ranks_together(context: RankContext, group: int) -> int:
    """How many of a sharding group's ranks share a host.

    Of N copies of the tables each has every N-th rank (TorchRec's DMPCollection), so that the
    copies of a part, which are averaged, are neighbours.
    """
    copies = context.world_size // group
    return max(1, context.local_world_size // copies)


def _keep_whole_rows(model: nn.Module) -> None:
    """Put hooks on every lookup whose tables are cut by columns."""
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
    """(table, first row) of everything that ``kind`` shards, in an order all ranks share."""
    blocks = set()
    for table, sharding in module.module_sharding_plan.items():
        if sharding.sharding_type == kind:
            spec = cast(EnumerableShardingSpec, sharding.sharding_spec)
            blocks |= {(table, shard.shard_offsets[0]) for shard in spec.shards}
    return sorted(blocks)
