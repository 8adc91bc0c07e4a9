"""Types that would leave a rank without rows are not offered and not accepted."""

import pytest
from torchrec.distributed.planner import Topology
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from dat_rec.errors import UserError
from dat_rec.planner.constraints import rules_by_table
from dat_rec.sharding_rules import SHARDING_TYPES, ShardingType

ON_HOST = ("table_row_wise", "grid_shard")
PLACES = {
    # Rows, ranks, ranks of a host: the types whose last block of ⌈rows / ranks⌉ rows is empty.
    (1, 2, 2): ("row_wise", *ON_HOST),
    (1, 2, 1): ("row_wise",),
    (3, 2, 2): (),
    (3, 3, 3): (),
    (4, 3, 3): ("row_wise", *ON_HOST),
    (5, 4, 2): ("row_wise",),
    (1, 4, 2): ("row_wise", *ON_HOST),
    (1, 1, 1): (),
}


def table(rows: int) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name="flag", embedding_dim=8, num_embeddings=rows, feature_names=["flag"]
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SHARDING_TYPES)
def test_a_type_that_leaves_a_rank_without_rows_is_refused(
    kind: ShardingType, place: tuple[int, int, int]
) -> None:
    rows, ranks, local = place
    topology = Topology(world_size=ranks, local_world_size=local, compute_device="cpu")
    if kind in PLACES[place]:
        with pytest.raises(UserError, match="leave one of"):
            rules_by_table([table(rows)], topology, [f"flag={kind}"], ())
    else:
        assert rules_by_table([table(rows)], topology, [f"flag={kind}"], ())["flag"].sharding_types
    offered = rules_by_table([table(rows)], topology, [], SHARDING_TYPES)["flag"].sharding_types
    if ranks > 1:
        assert set(offered) == set(SHARDING_TYPES) - set(PLACES[place])
