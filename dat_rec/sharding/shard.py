"""Shard a model's tables over all ranks by a plan, and fuse their optimizer into backward.

Sharding stands in this room alone: the model knows nothing of ranks.
"""

from typing import cast

import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel, DMPCollection
from torchrec.distributed.types import ModuleSharder, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import Adagrad, RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.sharding.codecs import codecs
from dat_rec.sharding.copies import check_group_size, ranks_together
from dat_rec.sharding.cpu_update import update_by_compiled_code
from dat_rec.sharding.mean_gradients import MeanGradients
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.rowwise_adagrad import keep_whole_rows
from dat_rec.sharding_rules import SHARDING_TYPES

EPS = 1e-8
"""Added to the root of the tables' Adagrad, by fused and dense kernels alike."""


class Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # TorchRec ships no types
    """TorchRec's sharder with every type and kernel that works; constraints choose among them."""

    def sharding_types(self, compute_device_type: str) -> list[str]:  # noqa: ARG002
        """Return all types; TorchRec hides the row-wise ones on CPU, where they work."""
        return list(SHARDING_TYPES)

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Return the dense kernel for data-parallel tables, and the fused ones for all others."""
        if sharding_type == "data_parallel":
            return ["dense"]
        uvm = ["fused_uvm", "fused_uvm_caching"] if compute_device_type == "cuda" else []
        return ["fused", *uvm]


def shard(
    model: nn.Module, plan: ShardingPlan, context: RankContext, options: ShardingOptions
) -> DistributedModelParallel:
    """Shard ``model``'s tables by ``plan``; their optimizer is fused into backward. Collective.

    Args:
        model: its EmbeddingBagCollections may be on the meta device; after ``fuse_optimizer``.
        plan: of every table, the same on all ranks.
        context: this rank's.
        options: the dtype of messages, the tables' optimizer, the size of sharding groups.

    Returns:
        The sharded model. Its parameters that are no tables are the same on all ranks, and so are
        their gradients after backward.
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
        keep_whole_rows(sharded)
    update_by_compiled_code(sharded)
    return sharded


def fuse_optimizer(model: nn.Module, options: ShardingOptions) -> None:
    """Give the tables their optimizer, before planning: its state takes memory too.

    Args:
        model: its EmbeddingBagCollections may be on the meta device.
        options: the optimizer and its learning rate.
    """
    optimizer = RowWiseAdagrad if options.optimizer == "rowwise_adagrad" else Adagrad
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            # A fresh dict each time: TorchRec changes it in place.
            kwargs = {"lr": options.table_lr, "eps": EPS}
            apply_optimizer_in_backward(optimizer, module.parameters(), kwargs)


def check_options(context: RankContext, options: ShardingOptions) -> None:
    """Refuse what these ranks' devices cannot do.

    Raises:
        UserError: an option that needs GPUs on CPU, or as ``check_group_size``.
    """
    if context.device.type == "cpu" and options.comms == "bf16":
        raise UserError(
            "--comms bf16: between CPUs (gloo) TorchRec would silently send float16: pass "
            "--comms fp16 or fp32"
        )
    check_group_size(context, options.sharding_group_size)
