"""Hosts by name, for ``--host``: what a job asks of its scheduler for each host.

Memory is a little less than the machine has, since its system keeps some.
"""

from collections.abc import Mapping

from torchx.specs import Resource

RESOURCES: Mapping[str, Resource] = {
    "cpu": Resource(cpu=2, gpu=0, memMB=4_096),
    "cpu-16": Resource(cpu=16, gpu=0, memMB=60_000),
    "8xa100-80gb": Resource(cpu=96, gpu=8, memMB=1_100_000),
    "8xh100": Resource(cpu=192, gpu=8, memMB=2_000_000),
    "8xh200": Resource(cpu=192, gpu=8, memMB=2_000_000),
}
"""A piece of a host for trials; a CPU host; hosts with eight NVIDIA A100 of 80 GB, H100 or H200."""
