"""The sharded model against the unsharded one: forward, loss, and one update by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dat_rec.config import LossConfig, ModelConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding_rules import ShardingType
from dat_rec.training.objective import TrainTask
from dat_rec.training.optimizers import build_optimizer
from tests.distributed.ranks import run_ranks

GLOBAL_BATCH = 96
TYPES: tuple[ShardingType, ...] = ("table_wise", "row_wise")
TABLE_LR, TOWER_LR, EPS = 0.05, 0.01, 1e-8
MODEL = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8)
LOSSES = {
    "modern": LossConfig(alignment=0.5),
    "paper": LossConfig(main="bce", negatives=3),
}


def options(negatives: int) -> ReaderOptions:
    return ReaderOptions(GLOBAL_BATCH, epochs=1, seed=3, negatives=negatives)


def sharding(batch_size: int, pins: tuple[str, ...] = ()) -> ShardingOptions:
    return ShardingOptions(batch_size, TABLE_LR, sharding_types=TYPES, pins=pins)


def sharded_step(dataset: Dataset, loss: LossConfig, pins: tuple[str, ...] = ()) -> dict[str, Any]:
    """Forward and one update on this rank; whole tables gathered afterwards."""
    with process_group(60) as context:
        torch.manual_seed(5)
        task = TrainTask(dataset.schema, MODEL, loss, torch.device("meta"))
        batch_size = GLOBAL_BATCH // context.world_size
        model, plan = plan_and_shard(task, {}, context, sharding(batch_size, pins))
        initialize_tables(model, seed=7, scale=0.5)
        optimizer = build_optimizer(model, TOWER_LR, TABLE_LR)
        reader = ExampleReader(dataset, options(loss.negatives), context.rank, context.world_size)
        batch = next(iter(reader))
        output = model.module.dat(batch.features)
        query = output.query_BD.detach().clone()
        value, _ = model(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        mean = value.detach().clone()
        dist.all_reduce(mean)
        return {
            "query": query,
            "loss": mean / context.world_size,
            "plan": plan_to_json(plan),
            "weights": {name: whole(tensor) for name, tensor in model.state_dict().items()},
        }


def whole(tensor: Any) -> Tensor:
    if not hasattr(tensor, "local_shards"):
        return tensor.detach().clone()
    result = torch.zeros(tensor.size())
    for part in tensor.local_shards():
        rows, columns = (
            slice(offset, offset + size)
            for offset, size in zip(
                part.metadata.shard_offsets, part.metadata.shard_sizes, strict=True
            )
        )
        result[rows, columns] = part.tensor.detach()
    dist.all_reduce(result)
    return result


def reference_step(dataset: Dataset, loss: LossConfig) -> dict[str, Any]:
    """The same on one process, unsharded, with RowWiseAdagrad's first step written out."""
    with process_group(60):
        torch.manual_seed(5)
        towers_only = TrainTask(dataset.schema, MODEL, loss, torch.device("meta")).state_dict()
        task = TrainTask(dataset.schema, MODEL, loss)
        task.load_state_dict(
            {name: value for name, value in towers_only.items() if not value.is_meta}, strict=False
        )
        initialize_tables(task, seed=7, scale=0.5)
        batch = next(iter(ExampleReader(dataset, options(loss.negatives))))
        query = task.dat(batch.features).query_BD.detach().clone()
        value, _ = task(batch)
        value.backward()
        towers = [p for name, p in task.named_parameters() if "embedding_bags" not in name]
        torch.optim.Adam(towers, lr=TOWER_LR).step()
        with torch.no_grad():
            for name, table in task.named_parameters():
                if "embedding_bags" in name:
                    assert table.grad is not None
                    state = table.grad.square().mean(dim=1, keepdim=True)
                    table -= TABLE_LR * table.grad / (state.sqrt() + EPS)
        weights = {name: tensor.detach().clone() for name, tensor in task.state_dict().items()}
        return {"query": query, "loss": value.detach(), "weights": weights}


@pytest.mark.parametrize("preset", LOSSES)
@pytest.mark.parametrize("world", [1, 2])
def test_sharded_equals_unsharded(world: int, preset: str, planted: Dataset) -> None:
    reference = reference_step(planted, LOSSES[preset])
    ranks = run_ranks(sharded_step, world, planted, LOSSES[preset])
    torch.testing.assert_close(torch.cat([rank["query"] for rank in ranks]), reference["query"])
    for rank in ranks:
        torch.testing.assert_close(rank["loss"], reference["loss"])
        assert rank["weights"].keys() == reference["weights"].keys()
        for name, expected in reference["weights"].items():
            torch.testing.assert_close(rank["weights"][name], expected, rtol=1e-4, atol=2e-5)
    used = {shard["rank"] for row in ranks[0]["plan"] for shard in row["shards"]}
    assert used == set(range(world))


@pytest.mark.parametrize("rows", ["item", "category", "*"])
def test_bags_have_the_mean_of_their_values_under_mixed_plans(rows: str, planted: Dataset) -> None:
    """TorchRec's own mean, under such plans, divides some bags by their lengths twice."""
    pooled = [feature for feature in planted.schema.features if feature.multi_valued]
    assert {feature.table for feature in pooled} == {"item", "category"}
    reference = reference_step(planted, LOSSES["modern"])
    pins = (f"{rows}=row_wise", "*=table_wise")
    ranks = run_ranks(sharded_step, 2, planted, LOSSES["modern"], pins)
    types = {row["table"]: row["sharding_type"] for row in ranks[0]["plan"]}
    assert types["item"] == ("table_wise" if rows == "category" else "row_wise")
    assert types["category"] == ("table_wise" if rows == "item" else "row_wise")
    found = torch.cat([rank["query"] for rank in ranks])
    torch.testing.assert_close(found, reference["query"], rtol=0, atol=3e-7)
    for name, expected in reference["weights"].items():
        torch.testing.assert_close(ranks[0]["weights"][name], expected, rtol=1e-4, atol=2e-5)


def test_initial_tables_do_not_depend_on_the_plan(planted: Dataset) -> None:
    ranks = run_ranks(initial_tables, 2, planted, LOSSES["modern"])
    task = TrainTask(planted.schema, MODEL, LOSSES["modern"])
    initialize_tables(task, seed=7, scale=0.5)
    for name, expected in task.state_dict().items():
        if "embedding_bags" in name:
            assert torch.equal(ranks[0][name], expected), name
            assert not expected[0].any()
            assert expected[1:].std() > 0


def initial_tables(dataset: Dataset, loss: LossConfig) -> dict[str, Tensor]:
    with process_group(60) as context:
        task = TrainTask(dataset.schema, MODEL, loss, torch.device("meta"))
        model, _ = plan_and_shard(task, {}, context, sharding(32))
        initialize_tables(model, seed=7, scale=0.5)
        tables = model.state_dict().items()
        return {name: whole(tensor) for name, tensor in tables if "embedding_bags" in name}


def test_the_whole_model_of_one_rank_is_on_its_device(planted: Dataset) -> None:
    """``meta`` in place of a GPU: DDP, which moves the towers elsewhere, is for several ranks."""
    meta = torch.device("meta")
    tasks = [TrainTask(planted.schema, MODEL, LOSSES["modern"], meta) for _ in range(2)]
    with process_group(60) as context:
        _, plan = plan_and_shard(tasks[0], {}, context, sharding(32))
        model, _ = plan_and_shard(
            tasks[1], {}, replace(context, device=meta), sharding(32), plan=plan
        )
    devices = {name: str(parameter.device) for name, parameter in model.named_parameters()}
    assert any("_tower." in name for name in devices)
    assert set(devices.values()) == {"meta"}
