"""Three training steps under a sharding type, beside the same steps on one unsharded process.

The reference knows nothing of TorchRec's sharding, FBGEMM or process groups of several ranks:
plain autograd on ``nn.EmbeddingBag``, Adagrad written out, and PyTorch's Adam.
"""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dat_rec.config import LossConfig, ModelConfig, TrainConfig, preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.shard import EPS
from dat_rec.sharding.table_shards import is_table, plain_name, table_of, table_shards
from dat_rec.training.objective import TrainTask
from dat_rec.training.optimizers import build_optimizer

STEPS = 3
GLOBAL_BATCH = 96
TABLE_LR, TOWER_LR = 0.05, 0.01
INIT = 0.5
MODEL = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8, precision="float64")


@dataclass(frozen=True)
class Case:
    """What is trained, and under which plan."""

    preset: str = "modern"
    pins: tuple[str, ...] = ()
    optimizer: str = "rowwise_adagrad"
    comms: str = "fp32"
    fp16_tables: tuple[str, ...] = ()
    generate: bool = False
    of_loss: tuple[tuple[str, Any], ...] = ()
    """Fields of the preset's losses that have another value."""

    def loss(self) -> LossConfig:
        config: TrainConfig = preset(self.preset, Path(), Path())  # type: ignore[arg-type]
        return replace(config.loss, **dict(self.of_loss))

    def model(self) -> ModelConfig:
        augment = self.preset != "two-tower"
        return ModelConfig(
            MODEL.embedding_dim,
            MODEL.hidden,
            MODEL.output_dim,
            last_relu=self.preset == "paper",
            augment=augment,
            precision="float64",
            fp16_tables=self.fp16_tables,
            generate=self.generate,
        )


@dataclass
class Outcome:
    """Losses of the steps, and every parameter after them, by plain name."""

    losses: list[float]
    parameters: dict[str, Tensor]
    plan: list[dict[str, Any]]


def batches(dataset: Dataset, case: Case, rank: int, world: int) -> list[Batch]:
    options = ReaderOptions(
        GLOBAL_BATCH,
        epochs=1,
        seed=3,
        negatives=case.loss().negatives,
        id_dropout=0.1,
        popularity=0.75,
        unknown_count="typical" if case.generate else "one",
    )
    return list(islice(ExampleReader(dataset, options, rank, world), STEPS))


def task(dataset: Dataset, case: Case, device: str) -> TrainTask:
    torch.manual_seed(5)
    towers = TrainTask(dataset.schema, case.model(), case.loss(), torch.device("meta"))
    if device == "meta":
        return towers
    whole = TrainTask(dataset.schema, case.model(), case.loss())
    state = {name: value for name, value in towers.state_dict().items() if not value.is_meta}
    whole.load_state_dict(state, strict=False)
    return whole


def options(case: Case, world: int) -> ShardingOptions:
    return ShardingOptions(
        batch_size=GLOBAL_BATCH // world,
        table_lr=TABLE_LR,
        optimizer=case.optimizer,  # type: ignore[arg-type]
        pins=case.pins,
        comms=case.comms,  # type: ignore[arg-type]
    )


def run_cases(dataset: Dataset, cases: list[Case]) -> list[Outcome]:
    """Every case on this rank, one after another."""
    with process_group(60) as context:
        return [run_sharded(dataset, case, context) for case in cases]


def run_references(dataset: Dataset, cases: list[Case]) -> list[Outcome]:
    """Every case unsharded, on one process."""
    with process_group(60):
        return [run_reference(dataset, case) for case in cases]


def run_sharded(dataset: Dataset, case: Case, context: RankContext) -> Outcome:
    """The steps on this rank, in the process group that there is."""
    how = options(case, context.world_size)
    model, plan = plan_and_shard(task(dataset, case, "meta"), {}, context, how)
    initialize_tables(model, seed=7, scale=INIT)
    optimizer = build_optimizer(model, TOWER_LR, TABLE_LR, case.optimizer)  # type: ignore
    losses = []
    for batch in batches(dataset, case, context.rank, context.world_size):
        optimizer.zero_grad()
        loss, _ = model(batch)
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(float(total) / context.world_size)
    return Outcome(losses, whole_parameters(model), plan_to_json(plan))


def whole_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter, tables made whole from the ranks' shards."""
    found = {
        plain_name(name): value.detach().clone()
        for name, value in model.named_parameters()
        if not is_table(name)
    }
    shards = table_shards(model)
    names: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(names, {shard.table: shard.shape for shard in shards})
    for table, shape in sorted({k: v for part in names for k, v in part.items()}.items()):
        whole, times = torch.zeros(shape), torch.zeros(shape)
        for shard in shards:
            if shard.table == table:
                rows, columns = shard.weights.shape
                part = (
                    slice(shard.row, shard.row + rows),
                    slice(shard.column, shard.column + columns),
                )
                whole[part] += shard.weights.float()
                times[part] += 1
        dist.all_reduce(whole)
        dist.all_reduce(times)
        assert (times == times[0, 0]).all(), table
        found[table] = whole / times
    return found


def run_reference(dataset: Dataset, case: Case) -> Outcome:
    """The steps unsharded, on one process."""
    model = task(dataset, case, "cpu")
    initialize_tables(model, seed=7, scale=INIT)
    tables = {n: p for n, p in model.named_parameters() if is_table(n)}
    towers = [p for n, p in model.named_parameters() if not is_table(n)]
    adam = torch.optim.Adam(towers, lr=TOWER_LR)
    sums: dict[str, Any] = dict.fromkeys(tables, 0.0)
    losses = []
    for batch in batches(dataset, case, 0, 1):
        model.zero_grad()
        loss, _ = model(batch)
        loss.backward()
        adam.step()
        with torch.no_grad():
            for name, table in tables.items():
                assert table.grad is not None
                squares = table.grad.double().square()
                if case.optimizer == "rowwise_adagrad":
                    squares = squares.mean(dim=1, keepdim=True)
                sums[name] = sums[name] + squares
                table -= (TABLE_LR * table.grad / (sums[name].sqrt() + EPS)).to(table.dtype)
        losses.append(float(loss.detach()))
    parameters = {
        table_of(name) if is_table(name) else name: value.detach().clone()
        for name, value in model.named_parameters()
    }
    return Outcome(losses, parameters, [])
