"""What do embeddings that travel in float16 gain, and what do they change?

    python -m benchmarks.comms [--users 2000000] [--dims 32 128]

The same model is trained on the same batches with --comms fp32 and fp16, in turn, on ranks of this
machine that talk by way of gloo; its large tables once table-wise (pooled embeddings are sent) and
once row-wise (they are summed on their way). The result is a JSON line for each, with the relative
difference between the two models' losses after the last step.
"""

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.options import Options, parse
from benchmarks.ranks import on_ranks
from benchmarks.record import percentiles
from benchmarks.shapes import Shape, build, stepper
from benchmarks.timing import interleaved, ratios
from dat_rec.config import Device
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.sharding_rules import ShardingType
from dat_rec.training.objective import TERMS

KINDS: tuple[ShardingType, ...] = ("table_wise", "row_wise")


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
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
    """Negatives for each example."""
    world_size: int = 2
    """Ranks."""
    rounds: int = 20
    """Turns of each precision."""


def _keep(step: Callable[[], Tensor], terms: deque[Tensor]) -> None:
    """Make a step and keep the loss's terms."""
    terms.append(step())


def measure(shapes: list[Shape], rounds: int, device: Device) -> list[dict[str, Any]]:
    """Every figure of this rank, by shape and sharding."""
    with process_group(300, device=device) as context:
        return [_measure(shape, kind, rounds, context) for shape in shapes for kind in KINDS]


def _measure(shape: Shape, kind: ShardingType, rounds: int, context: RankContext) -> dict[str, Any]:
    terms: dict[str, deque[Tensor]] = {name: deque(maxlen=1) for name in ("fp32", "fp16")}
    pins = ("category=table_wise", f"*={kind}")
    steps = {}
    for name, last in terms.items():
        built = build(shape, shape.config(pin=pins, comms=name), context)
        step = stepper(shape, built, context)
        steps[name] = functools.partial(_keep, step, last)
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
    arguments = parse(Arguments)
    users, items, dims = arguments.users, arguments.items, arguments.dims
    rounds, local_batch = arguments.rounds, arguments.batch_size
    if arguments.smoke:
        users, items, dims, rounds, local_batch = 2_000, 1_000, (32,), 2, 128
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
        "world_size": arguments.world_size,
        "batch_size": local_batch,
        "negatives": arguments.negatives,
        "users": users,
        "items": items,
    }
    for result in on_ranks(arguments.world_size, measure, shapes, rounds, arguments.device)[0]:
        arguments.report("comms", row | result)


if __name__ == "__main__":
    main()
