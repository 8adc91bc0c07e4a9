"""Gradients at two and three ranks against one process on the whole batch, their length included.

The first steps of Adam and RowWiseAdagrad are as long for twice the gradient, so that updated
weights do not tell a sum over ranks from a mean. The gradients themselves do: the towers' after
the mean over ranks, and the tables' by what RowWiseAdagrad keeps of them, mean(g²) of each row.
"""

from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from dat_rec.config import LossConfig, ModelConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.data.stream.reader_options import ReaderOptions
from dat_rec.dist.process_group import process_group
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.sharding.table_shards import is_table
from dat_rec.training.objective import TrainTask
from tests.distributed.ranks import run_ranks

CASES = {
    "even": (2, 64, 0, (32, 32)),
    "uneven": (2, 63, 0, (31, 32)),
    "an empty rank": (3, 239, 34, (0, 1, 1)),
}
"""World size, global batch, step, and the examples that each rank then has (the last: the tail)."""
MODEL = ModelConfig(embedding_dim=8, hidden=(16,), output_dim=8, precision="float64")
LOSSES = {
    "softmax": LossConfig(negatives=2),
    "softmax, learned temperature": LossConfig(negatives=2, learn_temperature=True),
    "shared": LossConfig(negatives=0, shared_negatives=70, in_batch=False),
    "contrastive": LossConfig(main="contrastive", negatives=2, margin=0.1),
    "bpr": LossConfig(main="bpr", negatives=2, learn_temperature=True),
    "bce": LossConfig(main="bce", negatives=2),
}
Gradients = dict[str, Tensor]
"""By parameter: a tower's gradient, or the root mean square of each table row's."""


def build(dataset: Dataset, loss: LossConfig, device: str, world: int) -> TrainTask:
    torch.manual_seed(5)
    return TrainTask(dataset.schema, MODEL, loss, torch.device(device), world)


def batch_of(dataset: Dataset, loss: LossConfig, case: str, rank: int, world: int) -> Batch:
    _, global_batch, step, _ = CASES[case]
    options = ReaderOptions(
        global_batch,
        epochs=1,
        seed=3,
        negatives=loss.negatives,
        shared_negatives=loss.shared_negatives,
        in_batch=loss.in_batch,
    )
    return next(iter(ExampleReader(dataset, options, rank, world, start_step=step)))


def on_one_rank(dataset: Dataset, cases: list[str]) -> dict[tuple[str, str], Gradients]:
    with process_group(60) as context:
        result = {}
        for case, (name, loss) in product(cases, LOSSES.items()):
            task = build(dataset, loss, "meta", context.world_size)
            batch = batch_of(dataset, loss, case, context.rank, context.world_size)
            assert batch.counts == CASES[case][3]
            # A part of every table on every rank, which ``whole`` counts on.
            rows = len(batch.positives.index)
            options = ShardingOptions(rows, 0.05, sharding_types=("row_wise",))
            model, _ = plan_and_shard(task, {}, context, options)
            initialize_tables(model, seed=7, scale=0.5)
            value, _ = model(batch)
            value.backward()
            mean = value.detach().clone()
            dist.all_reduce(mean)
            result[case, name] = tower_gradients(model) | table_gradients(model)
            result[case, name]["loss"] = mean / context.world_size
        return result


def tower_gradients(model: torch.nn.Module) -> Gradients:
    """Those of a learned temperature too."""
    found = {name: p.grad for name, p in model.named_parameters() if not is_table(name)}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def table_gradients(model: DistributedModelParallel) -> Gradients:
    state = model.fused_optimizer.state_dict()["state"]
    return {name: whole(only(kept)).sqrt() for name, kept in state.items()}


def only(kept: dict[str, Any]) -> Any:
    (squares,) = kept.values()
    return squares


def whole(tensor: Any) -> Tensor:
    """One number for each row of a table, from the ranks that hold them."""
    result = torch.zeros(tensor.size())
    for part in tensor.local_shards():
        (offset,), (size,) = part.metadata.shard_offsets, part.metadata.shard_sizes
        result[offset : offset + size] = part.tensor
    dist.all_reduce(result)
    return result


def on_one_process(dataset: Dataset, loss: LossConfig, case: str) -> Gradients:
    """Unsharded, with the same numbers; plain autograd gives the gradients."""
    with process_group(60):
        towers = build(dataset, loss, "meta", 1).state_dict()
        task = build(dataset, loss, "cpu", 1)
        task.load_state_dict(
            {name: value for name, value in towers.items() if not value.is_meta}, strict=False
        )
        initialize_tables(task, seed=7, scale=0.5)
        value, _ = task(batch_of(dataset, loss, case, 0, 1))
        value.backward()
        gradients = tower_gradients(task) | {"loss": value.detach()}
        for name, table in task.named_parameters():
            if ".embedding_bags." in name:
                assert table.grad is not None
                gradients[name] = table.grad.square().mean(dim=1).sqrt()
        return gradients


@pytest.fixture(scope="module")
def ranks(planted: Dataset) -> dict[int, list[dict[tuple[str, str], Gradients]]]:
    """What each rank returns, by world size."""
    cases: dict[int, list[str]] = {}
    for case, (world, *_) in CASES.items():
        cases.setdefault(world, []).append(case)
    return {world: run_ranks(on_one_rank, world, planted, names) for world, names in cases.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_whole_batch(
    loss: str,
    case: str,
    planted: Dataset,
    ranks: dict[int, list[dict[tuple[str, str], Gradients]]],
) -> None:
    expected = on_one_process(planted, LOSSES[loss], case)
    for rank in ranks[CASES[case][0]]:
        found = rank[case, loss]
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.any(), name
            error = (found[name] - gradient).abs().max()
            assert error < 1e-5 * gradient.abs().max(), (name, error)
