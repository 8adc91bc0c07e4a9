"""Requests for plans of tables and clusters that are only described."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dat_rec.planner.hardware import Cluster, Hardware
from dat_rec.planner.plan_request import PlanRequest
from dat_rec.planner.table_file import Table, TableFile
from dat_rec.sharding.options import ShardingOptions

# 4 GiB of weights each.
BIG = [Table(f"big_{number}", 2**24, 64) for number in range(6)]


def request(tables: Sequence[Table], cluster: Cluster, **options: Any) -> PlanRequest:
    """Return the request for a plan, for a batch of one example unless ``options`` say more."""
    file = TableFile(Path("tables.json"), tuple(tables), None)
    given = ShardingOptions(**{"batch_size": 1, "table_lr": 0.1, **options})
    return PlanRequest(file.model, file.pooling_factors(), cluster, given)


def gpus(hosts: int, ranks: int = 2, memory_gb: float = 4.0, host_gb: float = 64.0) -> Cluster:
    """Return a cluster of GPUs that is called "here"."""
    return Cluster(Hardware("here", "cuda", memory_gb, host_gb), hosts, ranks)
