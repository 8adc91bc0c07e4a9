"""Plan where a model's tables go, on rank 0, and shard it so on all ranks."""

from typing import cast

import torch.distributed as dist
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from dat_rec.dist.agree import raise_together, together
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.plan import make_plan
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import check_options, fuse_optimizer, shard


def plan_and_shard(
    model: nn.Module,
    pooling_factors: dict[str, float],
    context: RankContext,
    options: ShardingOptions,
    estimate: PlanEstimate | None = None,
    plan: ShardingPlan | None = None,
) -> tuple[DistributedModelParallel, ShardingPlan]:
    """Plan and shard ``model``'s tables. Collective: all ranks call it.

    Args:
        model: its EmbeddingBagCollections may be on the meta device.
        pooling_factors: mean number of values in a bag, by feature; 1 where absent.
        context: this rank's.
        options: what the planner may choose, and how tables learn.
        estimate: takes the plan's estimated costs, on rank 0.
        plan: to shard by, in place of the planner's; rank 0's counts.

    Returns:
        The sharded model, and its plan.

    Raises:
        UserError: as ``make_plan`` and ``check_options``.
    """
    with together():
        check_options(context, options)
    fuse_optimizer(model, options)
    plans = [plan]
    problem = ""
    if plan is None and context.is_rank_zero:
        try:
            plans = [make_plan(model, pooling_factors, context, options, estimate)]
        except UserError as error:
            problem = str(error)
    raise_together(problem)
    dist.broadcast_object_list(plans)
    agreed = cast(ShardingPlan, plans[0])
    return shard(model, agreed, context, options), agreed
