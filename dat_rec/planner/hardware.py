"""A cluster's description in, TorchRec's ``Topology`` of it out; no machine of it need be there.

A cluster is described by ``PRESET:HOSTSxRANKS``, as in h100-80gb:16x8, or by a JSON file
(``dat_rec.planner.topology_file``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Le
from torchrec.distributed.planner import Topology

from dat_rec.errors import UserError
from dat_rec.files import STRICT
from dat_rec.planner.log_filter import NOT_BY_FACTORY, without_message

BANDWIDTHS = ("hbm_mem_bw", "ddr_mem_bw", "hbm_to_ddr_mem_bw", "intra_host_bw", "inter_host_bw")
"""Names of a rank's bandwidths in TorchRec's ``Topology``; of two directions, one."""
MOST_RANKS = 2**14
Nanoseconds = Annotated[float, Ge(0), Le(1e9)]
Device = Literal["cuda", "cpu"]
CostKind = Literal["table_wise", "column_wise", "row_wise", "data_parallel", "every_rank"]
"""Kinds of sharding that have costs of their own; every_rank: what is done under any plan."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds that a unit of a shard's work takes in a step on a CPU: see ``time_cost.py``."""

    bag_ns: Nanoseconds
    bag_byte_ns: Nanoseconds
    value_ns: Nanoseconds
    value_byte_ns: Nanoseconds
    row_byte_ns: Nanoseconds

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Hardware:
    """One kind of host."""

    name: str
    device: Device
    memory_gb: float | None
    """Memory of each GPU in GiB, as PyTorch finds it; on CPU memory of each rank, None: its share
    of the host's."""
    host_memory_gb: float
    """Memory of a host in GiB."""
    bandwidths: dict[str, float] = field(default_factory=dict)
    """Bandwidths in GB/s (1e9 bytes) by the names of ``BANDWIDTHS``; where one is absent TorchRec
    guesses."""
    measured: bool = False
    """Whether the bandwidths were measured on such a host, not taken from a data sheet."""
    costs: dict[CostKind, Cost] = field(default_factory=dict)
    """Costs of every sharding choice, on CPU; they go before the bandwidths. Empty where they were
    not measured."""


CPU_COSTS: dict[CostKind, Cost] = {
    "table_wise": Cost(55.4, 0.426, 0.0, 0.335, 0.0),
    "column_wise": Cost(216.0, 0.763, 0.0, 1.50, 0.0),
    "row_wise": Cost(63.8, 0.907, 18.6, 0.420, 0.0),
    "data_parallel": Cost(1.69, 0.0, 0.0, 0.270, 0.818),
    "every_rank": Cost(19.9, 2.37, 0.0, 0.0839, 0.0),
}
"""Costs of CPUs whose own were not measured: those of ``benchmarks/results/topology.json``, of two
ranks with a core each of an AMD EPYC. With them the planner's choice is within 9 % of the quickest
plan on that host, where it is up to 58 % behind with the bandwidths that TorchRec assumes, which
are GPUs' (benchmarks/README.md, fidelity)."""

_A100 = {
    "hbm_to_ddr_mem_bw": 31.5,  # PCIe 4.0 × 16, one direction
    "intra_host_bw": 300.0,  # third-generation NVLink, 600 GB/s both ways: A100 data sheet
    "inter_host_bw": 25.0,  # one 200 Gb/s adapter for each GPU: DGX A100 data sheet
    "ddr_mem_bw": 51.2,  # 2 sockets × 8 channels of DDR4-3200 over 8 GPUs: EPYC 7742's page
}
_HOPPER = {
    "hbm_to_ddr_mem_bw": 63.0,  # PCIe 5.0 × 16, one direction
    "intra_host_bw": 450.0,  # fourth-generation NVLink, 900 GB/s both ways: H100 data sheet
    "inter_host_bw": 50.0,  # one 400 Gb/s adapter for each GPU: DGX H100 data sheet
    "ddr_mem_bw": 76.8,  # 2 sockets × 8 channels of DDR5-4800 over 8 GPUs: Xeon 8480C's page
}
_BLACKWELL = {
    "hbm_mem_bw": 8000.0,  # 64 TB/s of 8 GPUs: DGX B200 data sheet
    "hbm_to_ddr_mem_bw": 63.0,  # PCIe 5.0 × 16, one direction, which the Xeon 8570 has
    "intra_host_bw": 900.0,  # fifth-generation NVLink, 14.4 TB/s of 8 GPUs both ways: the same
    "inter_host_bw": 50.0,  # one 400 Gb/s adapter for each GPU: DGX B200 user guide
    "ddr_mem_bw": 89.6,  # 2 sockets × 8 channels of DDR5-5600 over 8 GPUs: Xeon 8570's page
}
_CARD = {
    # PCIe 4.0 × 16, one direction ("64GB/s" both ways), to the host and to one another: no NVLink.
    "hbm_to_ddr_mem_bw": 31.5,
    "intra_host_bw": 31.5,
}
PRESETS = {
    hardware.name: hardware
    for hardware in (
        # GPU memory: the total that PyTorch's out-of-memory messages tell. Host memory and GPU
        # memory's bandwidth: NVIDIA's data sheets of the SXM modules and of the DGX they are in.
        Hardware("a100-40gb", "cuda", 39.4, 1024, {"hbm_mem_bw": 1555.0, **_A100}),
        Hardware("a100-80gb", "cuda", 79.1, 2048, {"hbm_mem_bw": 2039.0, **_A100}),
        Hardware("h100-80gb", "cuda", 79.1, 2048, {"hbm_mem_bw": 3350.0, **_HOPPER}),
        Hardware("h200-141gb", "cuda", 139.8, 2048, {"hbm_mem_bw": 4800.0, **_HOPPER}),
        Hardware("b200-180gb", "cuda", 178.3, 2048, _BLACKWELL),
        # Cards. Bandwidth of their memory (GDDR6): NVIDIA's data sheets of A10G, L4, L40S. Host
        # memory, and what each of 8 cards has of the network (100, 100, 400 Gb/s): Amazon's pages
        # of the instances g5, g6 and g6e.48xlarge. Of their hosts' memory no bandwidth is told.
        Hardware(
            "a10g-24gb", "cuda", 22.0, 768, _CARD | {"hbm_mem_bw": 600, "inter_host_bw": 1.56}
        ),
        Hardware("l4-24gb", "cuda", 22.0, 768, _CARD | {"hbm_mem_bw": 300, "inter_host_bw": 1.56}),
        Hardware(
            "l40s-48gb", "cuda", 44.4, 1536, _CARD | {"hbm_mem_bw": 864, "inter_host_bw": 6.25}
        ),
        # Hosts without GPUs differ too much for figures of their own.
        Hardware("cpu-64gb", "cpu", None, 64, costs=CPU_COSTS),
        Hardware("cpu-256gb", "cpu", None, 256, costs=CPU_COSTS),
        Hardware("cpu-1tb", "cpu", None, 1024, costs=CPU_COSTS),
    )
}


@dataclass(frozen=True)
class Cluster:
    """Hosts of one kind."""

    hardware: Hardware
    hosts: int
    ranks_per_host: int

    @property
    def world_size(self) -> int:
        """Number of ranks on all hosts."""
        return self.hosts * self.ranks_per_host

    @property
    def on_gpu(self) -> bool:
        """Whether the ranks are GPUs."""
        return self.hardware.device == "cuda"

    @property
    def host_bytes(self) -> int:
        """Each rank's share of a host's memory, in bytes."""
        return int(self.hardware.host_memory_gb * 2**30) // self.ranks_per_host

    @property
    def memory_bytes(self) -> int:
        """Memory of each rank's device, in bytes."""
        given = self.hardware.memory_gb
        return self.host_bytes if given is None else int(given * 2**30)

    def with_memory(self, memory_gb: float) -> "Cluster":
        """The same cluster with ``memory_gb`` GiB for each rank."""
        return replace(self, hardware=replace(self.hardware, memory_gb=memory_gb))

    def topology(self, hosts: int | None = None) -> Topology:
        """The cluster as TorchRec's planner takes it, with another number of ``hosts`` if given."""
        with without_message(*NOT_BY_FACTORY):
            return Topology(
                world_size=self.ranks_per_host * (hosts or self.hosts),
                local_world_size=self.ranks_per_host,
                compute_device=self.hardware.device,
                hbm_cap=self.memory_bytes if self.on_gpu else None,
                ddr_cap=self.host_bytes if self.on_gpu else self.memory_bytes,
                **topology_bandwidths(self.hardware.bandwidths),
            )

    def __str__(self) -> str:
        """As in 16 × 8 h100-80gb."""
        return f"{self.hosts} × {self.ranks_per_host} {self.hardware.name}"


def topology_bandwidths(bandwidths: Mapping[str, float]) -> dict[str, float]:
    """Bandwidths in GB/s as arguments of TorchRec's ``Topology``: bytes a millisecond."""
    return {name: speed * 1e6 for name, speed in bandwidths.items()}


def parse_cluster(text: str) -> Cluster:
    """The cluster that ``PRESET:HOSTSxRANKS`` stands for.

    Raises:
        UserError: names the part that is wrong, and what there is.
    """
    name, _, size = text.partition(":")
    if name not in PRESETS:
        raise UserError(
            f"--cluster {text}: no hosts {name!r}: one of {', '.join(PRESETS)}, or describe yours "
            "in a file for --topology"
        )
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,3})", size, re.ASCII)
    if match is None:
        raise UserError(
            f"--cluster {text}: {size!r} is no HOSTSxRANKS, as in {name}:16x8 for 16 hosts of 8 "
            "ranks"
        )
    cluster = Cluster(PRESETS[name], int(match[1]), int(match[2]))
    check_size(f"--cluster {text}", cluster)
    return cluster


def usual_costs(device: str) -> dict[CostKind, Cost]:
    """Costs where none were measured; none on GPUs, for which TorchRec's formulas are made."""
    return CPU_COSTS if device == "cpu" else {}


def check_size(where: str, cluster: Cluster) -> None:
    """Refuse a cluster of more ranks than are planned for.

    Raises:
        UserError: names ``where`` it was described, and the maximum.
    """
    if cluster.world_size > MOST_RANKS:
        raise UserError(f"{where}: {cluster.world_size:,} ranks: at most {MOST_RANKS:,}")
