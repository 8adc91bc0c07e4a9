"""Two collections of tables, one, or one wide row for each id: which steps fastest?

    python -m benchmarks.ebcs [--users 4000000] [--items 500000] [--worlds 1 2] [--pin]

DAT keeps augmented vectors in an EmbeddingBagCollection of their own. Here are its tables alone,
without towers and losses: lookup, backward and fused update of the same ids, through training's
planner, sharding and pipeline. Beside the two collections stand the same tables in one, and tables
whose rows hold an id's embedding and its augmented vector in a piece. The result is a JSON line
for each world size.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from benchmarks.ranks import on_ranks
from benchmarks.record import append, circumstances, percentiles
from benchmarks.shapes import Shape, endless
from benchmarks.timing import interleaved, ratios
from dat_rec.config import Device
from dat_rec.data.batch import Batch, negative_key
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.train.build import sharding_options

LAYOUTS = ("two collections", "one collection", "wide rows")
BATCHES = 8


@dataclass(frozen=True)
class Arguments:
    """Steps of the same tables, laid out in three ways."""

    users: int = 4_000_000
    """Rows of the user's table."""
    items: int = 500_000
    """Rows of the item's table."""
    batch_size: int = 2048
    """Examples a batch on each rank."""
    negatives: int = 4
    """For each example."""
    worlds: tuple[int, ...] = (1, 2)
    """Numbers of ranks."""
    pin: tuple[str, ...] = ()
    """As in training; without one, what the planner chooses, which may differ by layout."""
    rounds: int = 60
    """Turns of each layout."""
    device: Device = "auto"
    """Device of every rank, as in training."""
    out: Path = Path("benchmarks/results/ebcs.jsonl")
    """File to append to."""
    smoke: bool = False
    """Small tables, one rank: shows that the script works, no figure."""


class Lookups(nn.Module):
    """Collections of tables alone; the loss is the sum of their outputs' mean squares."""

    def __init__(self, collections: list[EmbeddingBagCollection]) -> None:
        super().__init__()
        self.collections = nn.ModuleList(collections)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, twice: as the pipeline wants it."""
        outputs = [collection(batch.features) for collection in self.collections]
        loss = torch.stack([output.values().square().mean() for output in outputs]).sum()
        return loss, loss.detach()


def lookups(layout: str, shape: Shape) -> Lookups:
    """The tables of DAT with this shape, on the meta device."""
    candidates = range(1, 1 + shape.negatives)
    features = {
        feature.name: (
            feature.rows,
            [feature.name]
            + [negative_key(feature.name, c) for c in candidates if feature.side == "item"],
        )
        for feature in shape.schema().features
    }

    def tables(prefix: str, dims: dict[str, int]) -> list[EmbeddingBagConfig]:
        return [
            EmbeddingBagConfig(
                name=prefix + name,
                embedding_dim=dim,
                num_embeddings=features[name][0],
                feature_names=features[name][1],
                pooling=PoolingType.SUM,
            )
            for name, dim in dims.items()
        ]

    plain = dict.fromkeys(features, shape.dim)
    own = {"user": shape.output_dim, "item": shape.output_dim}
    wide = plain | {name: shape.dim + width for name, width in own.items()}
    configs = {
        "two collections": [tables("", plain), tables("augmented_", own)],
        "one collection": [tables("", plain) + tables("augmented_", own)],
        "wide rows": [tables("", wide)],
    }
    meta = torch.device("meta")
    return Lookups([EmbeddingBagCollection(tables=one, device=meta) for one in configs[layout]])


def stepper(
    layout: str, shape: Shape, pins: tuple[str, ...], context: RankContext, batches: list[Batch]
) -> tuple[Callable[[], object], list[dict[str, Any]]]:
    """What steps a layout, and its plan."""
    config = shape.config(pin=pins)
    options = sharding_options(config, shape.batch_size // context.world_size)
    model, plan = plan_and_shard(lookups(layout, shape), {}, context, options)
    initialize_tables(model, config.seed, config.optimizer.table_init)
    pipeline = TrainPipelineSparseDist(
        model, model.fused_optimizer, context.device, execute_all_batches=True
    )
    return functools.partial(pipeline.progress, endless(batches)), plan_to_json(plan)


def measure(shape: Shape, pins: tuple[str, ...], rounds: int, device: Device) -> dict[str, Any]:
    """Every figure of this rank."""
    with process_group(300, device=device) as context:
        batches = shape.batches(BATCHES, context.rank, context.world_size)
        steps, plans = {}, {}
        for layout in LAYOUTS:
            steps[layout], plans[layout] = stepper(layout, shape, pins, context, batches)
        times = interleaved(steps, rounds, steps_a_round=5)
    return {
        "step_ms": {name: percentiles([1000 * s for s in times[name]]) for name in LAYOUTS},
        "of_two_collections": {
            name: percentiles(ratios(times, name, "two collections")) for name in LAYOUTS[1:]
        },
        "sharding": {
            name: {row["table"]: row["sharding_type"] for row in plan}
            for name, plan in plans.items()
        },
    }


def main() -> None:
    """Measure each world size and append the results."""
    arguments = tyro.cli(Arguments)
    users, items, rounds = arguments.users, arguments.items, arguments.rounds
    worlds = arguments.worlds
    if arguments.smoke:
        users, items, rounds, worlds = 2_000, 1_000, 2, (1,)
    out = None if arguments.smoke else arguments.out
    shape = Shape((users,), (items,), negatives=arguments.negatives, categories=10)
    for world in worlds:
        shape = dataclasses.replace(shape, batch_size=arguments.batch_size * world)
        result = on_ranks(world, measure, shape, arguments.pin, rounds, arguments.device)[0]
        row = {
            "benchmark": "ebcs",
            "world_size": world,
            "pin": list(arguments.pin),
            "batch_size": arguments.batch_size,
            "users": users,
            "items": items,
            "negatives": arguments.negatives,
            "dim": shape.dim,
            "output_dim": shape.output_dim,
        }
        append(out, row | result | circumstances())


if __name__ == "__main__":
    main()
