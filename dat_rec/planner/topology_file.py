"""A JSON file that describes a cluster in, the cluster out.

::

    {"device": "cuda", "hosts": 16, "ranks_per_host": 8, "memory_gb": 79.1, "host_memory_gb": 2048,
     "hbm_mem_bw": 3350, "ddr_mem_bw": 76.8, "hbm_to_ddr_mem_bw": 63, "intra_host_bw": 450,
     "inter_host_bw": 50, "measured": true}

For CPUs also "costs", as ``benchmarks/calibrate.py`` measures them (``time_cost.py``); without them
and without bandwidths, CPUs have ``CPU_COSTS``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from annotated_types import Ge, Le

from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, read_json
from dat_rec.planner.hardware import (
    BANDWIDTHS,
    Cluster,
    Cost,
    CostKind,
    Device,
    Hardware,
    check_size,
    usual_costs,
)

Gib = Annotated[float, Ge(2.0**-20), Le(2.0**20)]
"""Memory in GiB, at most a PiB."""
Speed = Annotated[float, Ge(1e-6), Le(1e6)]
"""Bandwidth in GB/s (1e9 bytes)."""


@dataclass(frozen=True)
class Content:
    """The JSON of a topology file, as in ``Hardware`` and ``Cluster``; 0.0: the field is absent."""

    device: Device
    hosts: Annotated[int, Ge(1)]
    ranks_per_host: Annotated[int, Ge(1)]
    host_memory_gb: Gib
    memory_gb: Gib = 0.0
    hbm_mem_bw: Speed = 0.0
    ddr_mem_bw: Speed = 0.0
    hbm_to_ddr_mem_bw: Speed = 0.0
    intra_host_bw: Speed = 0.0
    inter_host_bw: Speed = 0.0
    measured: bool = False
    costs: dict[CostKind, Cost] | None = None

    __pydantic_config__ = STRICT


def read_cluster(path: Path) -> Cluster:
    """The cluster that a topology file describes.

    Raises:
        UserError: names the file, the field and its cure.
    """
    value = read_json(path, "the topology")
    if isinstance(value, dict) and value.get("costs", {}) is None:
        raise UserError(f"{path}: costs is None: measure them, or leave them out")
    content = checked(Content, value, str(path))
    if content.device == "cuda" and not content.memory_gb:
        raise UserError(f"{path}: memory_gb is missing: add the GiB of each GPU")
    if content.device == "cuda" and content.costs is not None:
        raise UserError(f"{path}: costs are those of CPUs: leave them out")
    if content.costs is not None and (
        missing := sorted({*get_args(CostKind)} - content.costs.keys())
    ):
        raise UserError(f"{path}: costs.{missing[0]} is missing: measure them anew")
    given = {name: getattr(content, name) for name in BANDWIDTHS}
    bandwidths = {name: speed for name, speed in given.items() if speed}
    usual = {} if bandwidths else usual_costs(content.device)
    hardware = Hardware(
        path.name,
        content.device,
        content.memory_gb or None,
        content.host_memory_gb,
        bandwidths,
        content.measured,
        usual if content.costs is None else content.costs,
    )
    cluster = Cluster(hardware, content.hosts, content.ranks_per_host)
    check_size(str(path), cluster)
    return cluster
