"""TorchRec's ``Topology``: ranks, hosts, memory and bandwidths, as its planner takes them."""

from collections.abc import Mapping
from pathlib import Path

from torchrec.distributed.planner import Topology

from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.hardware import Cost, CostKind, topology_bandwidths, usual_costs
from dat_rec.planner.log_filter import NOT_BY_FACTORY, without_message
from dat_rec.planner.topology_file import read_cluster
from dat_rec.sharding.copies import ranks_together


def topology_of_ranks(
    context: RankContext, group: int, bandwidths: Mapping[str, float]
) -> Topology:
    """Return the topology of the ranks that share one copy of the tables.

    Args:
        context: this rank's.
        group: number of ranks that share a copy.
        bandwidths: GB/s by the names of ``BANDWIDTHS``; TorchRec's own guess where absent.
    """
    on_gpu = context.device.type == "cuda"
    with without_message(*NOT_BY_FACTORY):
        return Topology(
            world_size=group,
            local_world_size=ranks_together(context, group),
            compute_device=context.device.type,
            # TorchRec's own guesses are 32 GB a GPU, and 128 GB of host memory for each rank.
            hbm_cap=context.memory_bytes if on_gpu else None,
            ddr_cap=context.host_memory_bytes if on_gpu else context.memory_bytes,
            **topology_bandwidths(bandwidths),
        )


def measured_bandwidths_and_costs(
    device: str, path: Path | None
) -> tuple[Mapping[str, float], Mapping[CostKind, Cost]]:
    """Return bandwidths and costs, from a topology file or as they usually are.

    Args:
        device: ``cuda`` or ``cpu``, that the ranks are on.
        path: the topology file, or None.

    Raises:
        UserError: the file is bad, or another device's.
    """
    if path is None:
        return {}, usual_costs(device)
    hardware = read_cluster(path).hardware
    if hardware.device != device:
        raise UserError(
            f"--topology {path}: of {hardware.device}, and this run is on {device}: "
            "name one of such hosts, or leave it out"
        )
    return hardware.bandwidths, hardware.costs
