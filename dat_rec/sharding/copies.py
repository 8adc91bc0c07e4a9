"""2D parallelism: groups of ranks that each have a copy of all tables, averaged after every step.

With N copies, each copy has every N-th rank (TorchRec's ``DMPCollection``). The N ranks that hold
the same shard, whose weights are averaged, are neighbours.
"""

from torchrec.distributed.model_parallel import DMPCollection

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.sharding.table_shards import table_shards


def average_copies(model: DMPCollection) -> None:
    """Make the copies of the tables, and their optimizers' state, the same again. Collective."""
    # Looking at the shards settles what the update has left open, and empties caches: either
    # would else take the average's place.
    table_shards(model)
    model.sync()


def ranks_together(context: RankContext, group: int) -> int:
    """Return how many ranks of one sharding group share a host.

    Args:
        context: this rank's.
        group: number of ranks that share one copy of the tables.
    """
    copies = context.world_size // group
    return max(1, context.local_world_size // copies)


def check_group_size(context: RankContext, group: int) -> None:
    """Refuse sharding groups that these ranks cannot form.

    Args:
        context: this rank's.
        group: number of ranks that share one copy of the tables; 0 for all.

    Raises:
        UserError: the ranks are on CPU, the groups do not divide them, or hosts would hold
            different shards of a copy.
    """
    if not group:
        return
    if context.device.type == "cpu":
        raise UserError(
            f"--sharding-group-size {group}: copies of the tables (TorchRec's DMPCollection) need "
            "GPUs: leave it out"
        )
    if context.world_size % group or group == context.world_size:
        raise UserError(
            f"--sharding-group-size {group}: it must divide the {context.world_size} ranks, and be "
            "less"
        )
    copies, local = context.world_size // group, context.local_world_size
    if local % copies and copies % local:
        raise UserError(
            f"--sharding-group-size {group}: the {copies} copies of the tables must divide the "
            f"{local} ranks of a host, or be a multiple: hosts would hold different parts of a copy"
        )
