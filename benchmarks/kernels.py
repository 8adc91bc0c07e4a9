"""Up to which size of a table does the dense kernel beat the fused one?

    python -m benchmarks.kernels [--rows 1000 10000 100000 1000000] [--worlds 1 2]

A fused kernel updates the rows that a batch has touched, in the backward pass; a dense one gives a
gradient of the table's size to an optimizer, and stands on every rank, where the gradients are
averaged. The planner is told which by --pin: ``*=table_wise`` or ``*=data_parallel``. The model is
a small DAT with four tables of so many rows, so that the tables are most of a step. The result is
a JSON line for each size and world size.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from benchmarks.ranks import on_ranks
from benchmarks.record import append, circumstances, percentiles
from benchmarks.shapes import Shape, build, endless
from benchmarks.timing import interleaved, ratios
from dat_rec.config import Device
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext

PINS = {"fused": "*=table_wise,fused", "dense": "*=data_parallel,dense"}
BATCHES = 8


@dataclass(frozen=True)
class Arguments:
    """Steps with either kernel, by the tables' size."""

    rows: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Of the user's table, the item's, and each one's augmented vectors."""
    batch_size: int = 512
    """Examples a batch on each rank."""
    worlds: tuple[int, ...] = (1, 2)
    """Numbers of ranks."""
    rounds: int = 20
    """Turns of each kernel."""
    device: Device = "auto"
    """Device of every rank, as in training."""
    out: Path = Path("benchmarks/results/kernels.jsonl")
    """File to append to."""
    smoke: bool = False
    """Small tables, one rank: shows that the script works, no figure."""


def measure(shapes: list[Shape], rounds: int, device: Device) -> list[dict[str, Any]]:
    """Every figure of this rank, by shape."""
    with process_group(300, device=device) as context:
        return [_measure(shape, rounds, context) for shape in shapes]


def _measure(shape: Shape, rounds: int, context: RankContext) -> dict[str, Any]:
    batches = shape.batches(BATCHES, context.rank, context.world_size)
    steps = {}
    for name, pin in PINS.items():
        built = build(shape, shape.config(pin=(pin,)), context)
        pipeline = TrainPipelineSparseDist(
            built.model, built.optimizer, context.device, execute_all_batches=True
        )
        steps[name] = functools.partial(pipeline.progress, endless(batches))
    times = interleaved(steps, rounds, steps_a_round=3)
    return {
        "rows": shape.query_rows[0],
        "dim": shape.dim,
        "step_ms": {name: percentiles([1000 * s for s in times[name]]) for name in PINS},
        "dense_over_fused": percentiles(ratios(times, "dense", "fused")),
    }


def main() -> None:
    """Measure each size on each number of ranks and append the results."""
    arguments = tyro.cli(Arguments)
    sizes, worlds, rounds = arguments.rows, arguments.worlds, arguments.rounds
    if arguments.smoke:
        sizes, worlds, rounds = (1_000,), (1,), 2
    out = None if arguments.smoke else arguments.out
    for world in worlds:
        batch_size = arguments.batch_size * world
        shapes = [
            Shape((rows,), (rows,), hidden=(32,), categories=10, batch_size=batch_size)
            for rows in sizes
        ]
        row = {
            "benchmark": "kernels",
            "world_size": world,
            "batch_size": arguments.batch_size,
        }
        for result in on_ranks(world, measure, shapes, rounds, arguments.device)[0]:
            append(out, row | result | circumstances())


if __name__ == "__main__":
    main()
