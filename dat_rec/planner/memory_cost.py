"""The memory that a shard takes: TorchRec's estimate, with what it leaves out.

TorchRec counts the optimizer's state in the table's own type and by the row's share of columns.
FBGEMM keeps it in float32, and with RowWiseAdagrad a sum for each row of each shard: with float16
tables, or columns cut apart, twice as much or more. And tables that every rank holds whole
(data_parallel) have a dense gradient as large as they are.
"""

from math import prod
from typing import Any

from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.types import Shard, ShardingOption, Storage
from torchrec.optim import RowWiseAdagrad

STATE_BYTES = 4
"""Bytes of each number of the optimizer's state."""
TORCHREC_CACHE = 0.2
"""Share of a table's rows in the GPU's cache where no rule says otherwise."""


def weight_bytes(option: ShardingOption, shard: Shard) -> int:
    """Return the bytes of the shard's weights, wherever they lie."""
    return int(prod(shard.size)) * int(option.tensor.element_size())


def state_bytes(option: ShardingOption, shard: Shard) -> int:
    """Return the bytes of the shard's optimizer state in FBGEMM; 0 without an optimizer."""
    kind = _optimizer(option)
    if kind is None:
        return 0
    return STATE_BYTES * int(shard.size[0] if kind is RowWiseAdagrad else prod(shard.size))


def memory_shares(option: ShardingOption, *, on_gpu: bool) -> tuple[float, float]:
    """Return the shares of weights and state that the GPU and the host hold, each 0 to 1."""
    if not on_gpu:
        return 0.0, 1.0
    if option.compute_kernel == "fused_uvm_caching":
        return option.cache_load_factor or TORCHREC_CACHE, 1.0
    return (0.0, 1.0) if option.compute_kernel == "fused_uvm" else (1.0, 0.0)


class StorageEstimator(EmbeddingStorageEstimator):  # type: ignore[misc]  # no types in TorchRec
    """TorchRec's estimator of memory, corrected."""

    def estimate(self, sharding_options: list[ShardingOption], *more: Any, **named: Any) -> None:
        """Set the storage of every shard."""
        super().estimate(sharding_options, *more, **named)
        on_gpu = self._topology.compute_device == "cuda"
        for option in sharding_options:
            device, host = memory_shares(option, on_gpu=on_gpu)
            for shard in option.shards:
                missing = state_bytes(option, shard) - _counted(option, shard)
                if option.sharding_type == "data_parallel":
                    missing += weight_bytes(option, shard)
                shard.storage += Storage(hbm=int(device * missing), ddr=int(host * missing))


def _counted(option: ShardingOption, shard: Shard) -> int:
    """Return the bytes of the state as TorchRec counts them."""
    kind, weights = _optimizer(option), weight_bytes(option, shard)
    if kind is None:
        return 0
    return weights // int(option.tensor.shape[1]) if kind is RowWiseAdagrad else weights


def _optimizer(option: ShardingOption) -> type | None:
    found: list[type] = getattr(option.tensor, "_optimizer_classes", [])
    return found[0] if found else None
