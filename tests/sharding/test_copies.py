"""2D parallelism: what the planner is told of a sharding group, against TorchRec's own groups."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DMPCollection

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.topology import topology_of_ranks
from dat_rec.sharding.copies import check_group_size, ranks_together


@contextmanager
def pretended_ranks(number: int) -> Iterator[None]:
    """A process group of so many, of which this process is the first, and the only one."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=number)
    try:
        yield
    finally:
        dist.destroy_process_group()


def groups(ranks: int, group: int) -> list[list[int]]:
    """The ranks of each copy of the tables, as TorchRec makes them."""
    with pretended_ranks(ranks):
        on_cpu = SimpleNamespace(_device=torch.device("cpu"))
        mesh, _, _ = DMPCollection._create_process_groups(on_cpu, 0, ranks, group)
    found: list[list[int]] = mesh.mesh.tolist()
    return found


def context(ranks: int, of_a_host: int) -> RankContext:
    device = torch.device("cuda", 0)
    return RankContext(0, ranks, 0, of_a_host, device, 80 << 30, 250 << 30, timedelta(seconds=60))


@pytest.mark.parametrize(
    ("ranks", "of_a_host", "group", "expected"),
    [(16, 8, 8, 4), (16, 8, 4, 2), (16, 4, 8, 2), (8, 8, 4, 4), (16, 8, 2, 1), (32, 4, 4, 1)],
)
def test_the_planner_knows_which_ranks_of_a_group_share_a_host(
    ranks: int, of_a_host: int, group: int, expected: int
) -> None:
    here = context(ranks, of_a_host)
    for of_a_copy in groups(ranks, group):
        on_hosts = [rank // of_a_host for rank in of_a_copy]
        assert set(Counter(on_hosts).values()) == {expected}
        # As the planner counts them: one host's after the other's.
        assert on_hosts == sorted(on_hosts)
    assert ranks_together(here, group) == expected
    topology = topology_of_ranks(here, group, {})
    assert (topology.world_size, topology.local_world_size) == (group, expected)
    check_group_size(here, group)


def test_copies_that_hosts_hold_in_unequal_parts_are_refused() -> None:
    on_first_host = [sum(rank < 8 for rank in of_a_copy) for of_a_copy in groups(24, 8)]
    assert on_first_host == [3, 3, 2]
    with pytest.raises(UserError, match="the 3 copies of the tables must divide the 8 ranks of a"):
        check_group_size(context(24, 8), 8)
