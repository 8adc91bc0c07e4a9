"""What a run's configuration says about planning and sharding: plain values, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dat_rec.sharding_rules import ShardingType


@dataclass(frozen=True)
class ShardingOptions:
    """Options of the planner, of the messages between ranks, and of the tables' optimizer."""

    batch_size: int
    """Examples in a batch on each rank."""
    table_lr: float
    """Learning rate of the tables."""
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    """The tables' optimizer."""
    sharding_types: tuple[ShardingType, ...] = ("table_wise", "row_wise", "table_row_wise")
    """The types that the planner may choose from where no rule says otherwise. On one rank it is
    always table_wise."""
    pins: tuple[str, ...] = ()
    """Rules of ``dat_rec.sharding_rules``, as texts."""
    memory_gb: float = 0.0
    """GiB of memory of each rank; 0 for what the device has."""
    comms: Literal["fp32", "fp16", "bf16"] = "fp32"
    """dtype of pooled embeddings and their gradients on their way between ranks."""
    sharding_group_size: int = 0
    """Number of ranks that share one copy of the tables; 0 for all ranks."""
    topology: Path | None = None
    """Topology file of ``read_cluster``, with the cluster's bandwidths and costs. None for
    ``usual_costs``, and on GPUs the bandwidths that TorchRec assumes."""
