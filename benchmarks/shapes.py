"""Models of any tables, fed with random ids: what a step costs, without a dataset.

The model, its losses, the planner and the sharding are those of training (``TrainTask``,
``shard``); the batches lie in memory and are used in turn.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan
from torchrec.optim.keyed import CombinedOptimizer

from dat_rec.config import Preset, TrainConfig, preset
from dat_rec.data.columns import Column
from dat_rec.data.schema import ITEM, USER, DenseFeature, Feature, Schema, Side
from dat_rec.data.stream.batch import Batch, Items, negative_key, to_kjt
from dat_rec.dist.rank_context import RankContext
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.training.build import choose_products, sharding_options
from dat_rec.training.objective import TrainTask
from dat_rec.training.optimizers import build_optimizer


@dataclass(frozen=True)
class Shape:
    """Tables, towers and batches of a model; besides its features each has a category."""

    query_rows: tuple[int, ...]
    """Rows of each table of the query tower; the first is the user's."""
    item_rows: tuple[int, ...]
    """Rows of each table of the item tower; the first is the item's."""
    dim: int = 32
    hidden: tuple[int, ...] = (256, 128)
    output_dim: int = 32
    batch_size: int = 2048
    """Examples a step, of all ranks together."""
    negatives: int = 1
    """Negatives for each example."""
    shared_negatives: int = 0
    """Negatives for each global batch, in place of those and of other examples' positives."""
    categories: int = 44
    bag: int = 1
    """Values in a bag, of all features but user, item and category."""
    skew: float = 0.0
    """Ids are drawn with P(id) ∝ id^-skew, 0 ≤ skew < 1; 0: uniformly."""

    content: int = 0
    """Width of a vector that items have as a dense feature; 0: they have none."""

    def schema(self) -> Schema:
        """The dataset that the model would be trained on."""
        return Schema(
            source="random",
            features=(
                *self._features("query", USER, self.query_rows),
                *self._features("item", ITEM, self.item_rows),
                Feature("category", "item", "category", self.categories),
            ),
            category="category",
            dense=self._dense(),
            history_length=0,
            users=self.query_rows[0],
            items=self.item_rows[0],
            trained_items=self.item_rows[0],
            examples=0,
            tests=0,
            example_files=(),
            split="none",
            rows_read=0,
            rejected={},
        )

    def _dense(self) -> tuple[DenseFeature, ...]:
        found = DenseFeature("content", "item", "vector", max(1, self.content), 0.0, 1.0)
        return (found,) if self.content else ()

    def _features(self, side: Side, first: str, rows: tuple[int, ...]) -> Iterator[Feature]:
        yield Feature(first, side, first, rows[0])
        for number, count in enumerate(rows[1:], start=1):
            name = f"{side}_{number}"
            yield Feature(name, side, name, count, multi_valued=self.bag > 1)

    def pooling_factors(self) -> dict[str, float]:
        """Mean number of values in a bag, by feature."""
        multi_valued = (feature.name for feature in self.schema().features if feature.multi_valued)
        return dict.fromkeys(multi_valued, float(self.bag))

    def config(self, name: Preset = "modern", **changes: Any) -> TrainConfig:
        """The configuration of ``preset`` with this shape, and with these ``changes`` at last."""
        config = preset(name, Path("none"), Path("none"))
        model = dataclasses.replace(
            config.model,
            embedding_dim=self.dim,
            hidden=self.hidden,
            output_dim=self.output_dim,
        )
        loss = dataclasses.replace(
            config.loss,
            negatives=self.negatives,
            shared_negatives=self.shared_negatives,
            in_batch=not self.shared_negatives,
        )
        return dataclasses.replace(config, model=model, loss=loss, **changes)

    def batches(
        self, number: int, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> list[Batch]:
        """``number`` of this rank's batches, all examples there."""
        share = self.batch_size // world_size
        rng = np.random.default_rng([seed, rank])
        return [self._batch(rng, share, world_size) for _ in range(number)]

    def _batch(self, rng: np.random.Generator, rows: int, ranks: int) -> Batch:
        shared = -(-self.shared_negatives // ranks)
        columns, dense = {}, {}
        for one in self._dense():
            dense[one.name] = self._vectors(rng, rows + shared)
            for number in range(0 if shared else self.negatives):
                dense[negative_key(one.name, number + 1)] = self._vectors(rng, rows)
        for feature in self.schema().side("query"):
            columns[feature.name] = self._column(rng, feature, rows)
        for feature in self.schema().side("item"):
            columns[feature.name] = self._column(rng, feature, rows + shared)
            for number in range(0 if shared else self.negatives):
                key = negative_key(feature.name, number + 1)
                columns[key] = self._column(rng, feature, rows)
        index, category = (
            torch.from_numpy(
                np.concatenate([column.values for key, column in columns.items() if _is(key, name)])
            )
            for name in (ITEM, "category")
        )
        offset = torch.full(index.shape, np.log(self.item_rows[0])).float()
        return Batch(
            features=to_kjt(columns, list(columns), rows + shared),
            positives=Items(index[:rows], category[:rows], offset[:rows]),
            negatives=Items(index[rows:], category[rows:], offset[rows:]),
            counts=(rows,) * ranks,
            negative_counts=(len(index) - rows,) * ranks,
            dense=dense,
        )

    def _column(self, rng: np.random.Generator, feature: Feature, rows: int) -> Column:
        values = rows * (self.bag if feature.multi_valued else 1)
        offsets = np.arange(0, values + 1, self.bag) if feature.multi_valued else None
        return Column(self._ids(rng, feature.rows, values), offsets)

    def _vectors(self, rng: np.random.Generator, rows: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal((rows, self.content), np.float32))

    def _ids(self, rng: np.random.Generator, rows: int, number: int) -> NDArray[np.int64]:
        uniform = rng.random(number) ** (1 / (1 - self.skew))
        return np.minimum((uniform * rows).astype(np.int64), rows - 1)


def _is(key: str, feature: str) -> bool:
    """Whether a key is the feature's, of positives or of negatives."""
    return key.partition("@")[0] == feature


@dataclass
class Built:
    """A sharded model and all that steps it."""

    model: DistributedModelParallel
    optimizer: CombinedOptimizer
    plan: ShardingPlan
    estimate: PlanEstimate = field(default_factory=PlanEstimate)
    """What the planner expects of the plan, on the first rank."""


def build(
    shape: Shape, config: TrainConfig, context: RankContext, plan: ShardingPlan | None = None
) -> Built:
    """The model, planned (or sharded by ``plan``), and filled as in training."""
    torch.manual_seed(config.seed)
    rows, meta = shape.batch_size // context.world_size, torch.device("meta")
    fused = config.softmax == "fused"
    task = TrainTask(
        shape.schema(), config.model, config.loss, meta, context.world_size, fused=fused
    )
    options = sharding_options(config, rows + config.loss.shared_rows(context.world_size))
    estimate = PlanEstimate()
    model, plan = plan_and_shard(task, shape.pooling_factors(), context, options, estimate, plan)
    initialize_tables(model, config.seed, config.optimizer.table_init)
    choose_products(config, model, context)
    learn = config.optimizer
    optimizer = build_optimizer(model, learn.tower_lr, learn.table_lr, learn.table)
    return Built(model, optimizer, plan, estimate)


def stepper(
    shape: Shape, built: Built, context: RankContext, number: int = 8
) -> Callable[[], Tensor]:
    """Return what makes a training step of the next of ``number`` batches, and gives its losses."""
    pipeline = TrainPipelineSparseDist[Batch, Tensor](
        built.model, built.optimizer, context.device, execute_all_batches=True
    )
    batches = endless(shape.batches(number, context.rank, context.world_size))
    return lambda: pipeline.progress(batches)


def endless(batches: list[Batch]) -> Iterator[Batch]:
    """Return the batches in turn, for ever."""
    return itertools.cycle(batches)
