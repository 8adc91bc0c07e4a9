"""Which sharding type is quickest, on how many ranks, for which tables?

    python -m benchmarks.sweep

Sharding type × ranks (1, 2, 4; a core each as far as they go) × shape of tables × bag, all types of
a shape stepping in turn, and "default", what training plans where it is told nothing. A model's
towers are small, so that its tables take most of a step. A line for each, with samples/s by the
median step of the slowest rank, and samples for each CPU second of the busiest rank: what cores of
its own would give but for waiting, where a machine has other work.
"""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrec.distributed.types import ShardingPlan

from benchmarks.options import Options, parse
from benchmarks.plans import TYPES, Planner, this_host, timed
from benchmarks.record import percentiles
from benchmarks.shapes import Shape
from dat_rec.config import Device, TrainConfig
from dat_rec.planner.hardware import Cluster, usual_costs

TOWERS: dict[str, Any] = {"hidden": (8,), "output_dim": 8, "batch_size": 2048}
SHAPES = {
    "few huge": Shape((1_000_000,) * 3, (1_000_000,) * 3, **TOWERS),
    "many small": Shape((5_000,) * 20, (5_000,) * 20, **TOWERS),
    "skewed": Shape((200_000,) * 5, (200_000,) * 5, skew=0.9, **TOWERS),
}
BAGS: tuple[int, ...] = (1, 10)
WORLDS: tuple[int, ...] = (1, 2, 4)
DEFAULT = "default"
DENSE = ("many small",)
"""Shapes that are sharded data-parallel too: others' gradients would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Samples a second by sharding type, ranks, tables and bag."""

    rounds: int = 11
    """Steps of each plan."""
    worlds: tuple[int, ...] = WORLDS
    """Numbers of ranks."""


def main() -> None:
    """Measure all, append a line for each."""
    arguments = parse(Arguments)
    shapes, worlds, bags, rounds = SHAPES, arguments.worlds, BAGS, arguments.rounds
    if arguments.smoke:
        shapes = {"many small": dataclasses.replace(SHAPES["many small"], batch_size=64)}
        worlds, bags, rounds = (1,), (1,), 2
    for name, shape in shapes.items():
        for bag in bags:
            for world in worlds:
                bagged = dataclasses.replace(shape, bag=bag)
                for row in measure(name, bagged, world, rounds, arguments.device):
                    arguments.report("sweep", row)


def as_in_training(cluster: Cluster) -> Cluster:
    """Return the cluster with the costs that training plans with by default."""
    hardware = dataclasses.replace(cluster.hardware, costs=usual_costs(cluster.hardware.device))
    return dataclasses.replace(cluster, hardware=hardware)


def measure(
    name: str, shape: Shape, world: int, rounds: int, device: Device
) -> list[dict[str, Any]]:
    """A row for each sharding type, all of one shape and one number of ranks."""
    planner = Planner(shape, world)
    here = this_host(device, world)
    types = [one for one in TYPES if one != "data_parallel" or name in DENSE]
    plans: dict[str, ShardingPlan] = {one: planner.plan(here, (f"*={one}",)) for one in types}
    usual = TrainConfig(Path(), Path()).sharding_types
    plans[DEFAULT] = planner.plan(as_in_training(here), types=usual)
    times = timed(shape, plans, world, rounds, here.hardware.device)
    return [
        {
            "shape": name,
            "sharding_type": kind,
            "ranks": world,
            "bag": shape.bag,
            "tables": len(shape.schema().features),
            "batch_size": shape.batch_size,
            "step_ms": percentiles([1000 * second for second in one.seconds]),
            "cpu_ms": percentiles([1000 * second for second in one.busiest]),
            "samples_per_s": percentiles([shape.batch_size / second for second in one.seconds]),
            "samples_per_busiest_cpu_s": shape.batch_size / statistics.median(one.busiest),
            "peak_memory_mb": one.peak_memory_mb,
        }
        for kind, one in times.items()
    ]


if __name__ == "__main__":
    main()
