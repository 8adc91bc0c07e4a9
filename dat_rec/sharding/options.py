"""What a run says of planning and sharding: plain values, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dat_rec.table_rules import ShardingType


@dataclass(frozen=True)
class ShardingOptions:
    """What a run's configuration says of planning and sharding."""

    batch_size: int
    """Examples a batch on each rank."""
    table_lr: float
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    sharding_types: tuple[ShardingType, ...] = ("table_wise", "row_wise", "table_row_wise")
    """What the planner may choose from where no rule says so; on one rank always table_wise."""
    pins: tuple[str, ...] = ()
    """Rules of ``dat_rec.table_rules``."""
    memory_gb: float = 0.0
    """GiB of each rank; 0: what the device has."""
    comms: Literal["fp32", "fp16", "bf16"] = "fp32"
    sharding_group_size: int = 0
    """Ranks that share one copy of the tables; 0: all."""
    topology: Path | None = None
    """File of ``read_cluster`` with the cluster's bandwidths and costs; None: ``usual_costs``, and
    on GPUs the bandwidths that TorchRec assumes."""
