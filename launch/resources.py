"""What a job asks of its scheduler for each host: a host's name in, CPUs, GPUs and memory out.

Memory is a little less than the machine has, since its system keeps some.
"""

import dataclasses
from collections.abc import Mapping

from torchx.specs import Resource

from launch.refuse import refuse
from launch.size import ONE, Size

RESOURCES: Mapping[str, Resource] = {
    "cpu": Resource(cpu=2, gpu=0, memMB=4_096),
    "cpu-16": Resource(cpu=16, gpu=0, memMB=60_000),
    "8xa100-80gb": Resource(cpu=96, gpu=8, memMB=1_100_000),
    "8xh100": Resource(cpu=192, gpu=8, memMB=2_000_000),
    "8xh200": Resource(cpu=192, gpu=8, memMB=2_000_000),
}
"""What ``--host`` names: a part of a host for trials, a CPU host, hosts with eight NVIDIA GPUs."""


def resource(host: str, cpu: int, gpu: int, mem_mb: int, size: Size = ONE) -> Resource:
    """Return what each host must have: the named host's, changed where numbers are given.

    Args:
        host: a name of RESOURCES.
        cpu: number of CPUs; 0 for the named host's.
        gpu: number of GPUs; -1 for the named host's.
        mem_mb: memory in MB; 0 for the named host's.
        size: the job's; each rank needs a GPU of its own where hosts have any.
    """
    if host not in RESOURCES:
        refuse(f"--host {host}: unknown: one of {', '.join(RESOURCES)}; or --cpu, --gpu, --memMB")
    named = RESOURCES[host]
    for name, value, default in (("cpu", cpu, 0), ("gpu", gpu, -1), ("memMB", mem_mb, 0)):
        if value < default:
            refuse(f"--{name} {value}: a number, or {default} for the named host's")
    found = dataclasses.replace(
        named,
        cpu=cpu or named.cpu,
        gpu=named.gpu if gpu < 0 else gpu,
        memMB=mem_mb or named.memMB,
    )
    if found.gpu and size.workers > found.gpu:
        refuse(
            f"-j: {size.workers} workers on hosts of {found.gpu} GPUs, and each needs its own: "
            f"at most x{found.gpu}"
        )
    return found
