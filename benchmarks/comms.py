"""What do embeddings that travel in float16 gain, and what do they change?

    python -m benchmarks.comms [--users 2000000] [--dims 32 128]

The same model is trained on the same batches with --comms fp32 and fp16, in turn, on ranks of this
machine that talk by way of gloo; its large tables once table-wise (pooled embeddings are sent) and
once row-wise (they are summed on their way). The result is a JSON line for each, with the relative
difference between the two models' losses after the last step.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from torch import Tensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from benchmarks.ranks import on_ranks
from benchmarks.record import append, circumstances, percentiles
from benchmarks.shapes import Shape, build, endless
from benchmarks.timing import interleaved, ratios
from dat_rec.config import Device, TrainConfig
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.table_rules import ShardingType
from dat_rec.train.objective import TERMS

BATCHES = 8
KINDS: tuple[ShardingType, ...] = ("table_wise", "row_wise")


@dataclass(frozen=True)
class Arguments:
    """Steps with either precision of what is sent."""

    users: int = 2_000_000
    """Rows of the user's table."""
    items: int = 200_000
    """Rows of the item's table."""
    dims: tuple[int, ...] = (32, 128)
    """Widths of embeddings and augmented vectors."""
    batch_size: int = 1024
    """Examples a batch on each rank."""
    negatives: int = 4
    """For each example."""
    world_size: int = 2
    """Ranks."""
    rounds: int = 20
    """Turns of each precision."""
    device: Device = "auto"
    """Device of every rank, as in training."""
    out: Path = Path("benchmarks/results/comms.jsonl")
    """File to append to."""
    smoke: bool = False
    """Small tables: shows that the script works, no figure."""


def stepper(
    shape: Shape, config: TrainConfig, context: RankContext, terms: deque[Tensor]
) -> Callable[[], None]:
    """What steps a model and keeps the loss's terms."""
    built = build(shape, config, context)
    pipeline: TrainPipelineSparseDist[Any, Tensor] = TrainPipelineSparseDist(
        built.model, built.optimizer, context.device, execute_all_batches=True
    )
    batches = endless(shape.batches(BATCHES, context.rank, context.world_size))
    return lambda: terms.append(pipeline.progress(batches))


def measure(shapes: list[Shape], rounds: int, device: Device) -> list[dict[str, Any]]:
    """Every figure of this rank, by shape and sharding."""
    with process_group(300, device=device) as context:
        return [_measure(shape, kind, rounds, context) for shape in shapes for kind in KINDS]


def _measure(shape: Shape, kind: ShardingType, rounds: int, context: RankContext) -> dict[str, Any]:
    terms: dict[str, deque[Tensor]] = {name: deque(maxlen=1) for name in ("fp32", "fp16")}
    pins = ("category=table_wise", f"*={kind}")
    steps = {
        name: stepper(shape, shape.config(pin=pins, comms=name), context, terms[name])
        for name in terms
    }
    times = interleaved(steps, rounds, steps_a_round=3)
    main = {name: float(last[0][TERMS.index("main")]) for name, last in terms.items()}
    return {
        "sharding": kind,
        "dim": shape.dim,
        "step_ms": {name: percentiles([1000 * s for s in times[name]]) for name in terms},
        "fp16_over_fp32": percentiles(ratios(times, "fp16", "fp32")),
        "loss_difference": abs(main["fp16"] / main["fp32"] - 1),
    }


def main() -> None:
    """Measure each width and sharding and append the results."""
    arguments = tyro.cli(Arguments)
    users, items, dims = arguments.users, arguments.items, arguments.dims
    rounds, local_batch = arguments.rounds, arguments.batch_size
    if arguments.smoke:
        users, items, dims, rounds, local_batch = 2_000, 1_000, (32,), 2, 128
    out = None if arguments.smoke else arguments.out
    shapes = [
        Shape(
            (users,),
            (items,),
            dim=dim,
            hidden=(32,),
            output_dim=dim,
            batch_size=local_batch * arguments.world_size,
            negatives=arguments.negatives,
            categories=10,
        )
        for dim in dims
    ]
    row = {
        "benchmark": "comms",
        "world_size": arguments.world_size,
        "batch_size": local_batch,
        "negatives": arguments.negatives,
        "users": users,
        "items": items,
    }
    for result in on_ranks(arguments.world_size, measure, shapes, rounds, arguments.device)[0]:
        append(out, row | result | circumstances())


if __name__ == "__main__":
    main()
