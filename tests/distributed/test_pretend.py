"""Training on a pretend accelerator (tests/distributed/pretend.py) against training on the CPU.

What stays on the CPU, or is made there and meets what is on the device, fails; a GPU is not needed.
"""

import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan

from dat_rec.checkpoint.model_state import blocks_of, copied
from dat_rec.checkpoint.restore import restore
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.config import Device, LossConfig, ModelConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.prefetch import Prefetcher
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.retrieval.divided import messages_over
from dat_rec.retrieval.encode import encode_items
from dat_rec.retrieval.live import LiveModel
from dat_rec.retrieval.ranks import one_thread_each
from dat_rec.sharding import rowwise_adagrad
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.training.objective import TrainTask
from dat_rec.training.optimizers import build_optimizer
from dat_rec.training.watch import LossWatch
from tests.distributed.moves import newest
from tests.distributed.ranks import run_ranks
from tests.distributed.test_shard import (
    GLOBAL_BATCH,
    LOSSES,
    MODEL,
    TABLE_LR,
    TOWER_LR,
    options,
    sharding,
)

STEPS = 3


@dataclass(frozen=True)
class Case:
    """What is trained, and under which plan."""

    loss: LossConfig = LOSSES["modern"]
    model: ModelConfig = MODEL
    pins: tuple[str, ...] = ()


CASES = {
    "modern": Case(),
    "paper": Case(LOSSES["paper"]),
    "shared negatives": Case(LossConfig(shared_negatives=33)),
    "losses with a state": Case(LossConfig(learn_temperature=True, queue=2)),
    "contrastive": Case(LossConfig("contrastive", margin=0.2)),
    "every type": Case(
        pins=(
            "user=row_wise",
            "augmented_item=column_wise,min_partition:4",
            "*=table_wise",
        )
    ),
}


def build(
    dataset: Dataset, case: Case, context: RankContext, plan: ShardingPlan | None, seed: int = 7
) -> tuple[Any, Any, ShardingPlan]:
    torch.manual_seed(seed)
    meta = torch.device("meta")
    task = TrainTask(dataset.schema, case.model, case.loss, meta, context.world_size)
    how = sharding(GLOBAL_BATCH // context.world_size, case.pins)
    model, plan = plan_and_shard(task, {}, context, how, plan=plan)
    initialize_tables(model, seed, scale=0.5)
    optimizer = build_optimizer(model, TOWER_LR, TABLE_LR)
    for group in optimizer.param_groups:
        # PyTorch fuses Adam on a CPU, and not on this device: with other rounding.
        if group.get("fused"):
            group["fused"] = None
    return model, optimizer, plan


def trained(
    model: Any,
    optimizer: Any,
    batches: list[Batch],
    context: RankContext,
    waits: Sequence[Any] = (),
) -> dict[str, Any]:
    """What the steps make of this rank's part of the model, and what the run would log.

    What they add to ``waits`` is returned step by step.
    """
    watch = LossWatch()
    pipeline = TrainPipelineSparseDist[Batch, Tensor](model, optimizer, context.device)
    with closing(Prefetcher(iter(batches), context.device)) as stream:
        ends = [len(waits)]
        for _ in batches:
            watch.add(pipeline.progress(stream))
            ends.append(len(waits))
    of_steps = [list(waits[begin:end]) for begin, end in pairwise(ends)]
    losses = watch.look(len(batches), lambda _: "", lambda: "")
    return {"losses": losses, "state": state(model, optimizer), "waits": of_steps}


def state(model: Any, optimizer: Any) -> dict[str, Tensor]:
    return {f"{b.name}@{b.offsets}": b.tensor for b in copied(blocks_of(model, optimizer))}


def live_vectors(
    dataset: Dataset, case: Case, model: Any, context: RankContext
) -> dict[str, Tensor]:
    """This rank's item vectors of the model as it stands, as a validation has them."""
    with messages_over(context.own_group()), one_thread_each() as threads:
        live = LiveModel(dataset, case, model).now()
        return {"items": encode_items(live, dataset, threads).rows.local}


def on(device: torch.device, plan: ShardingPlan) -> ShardingPlan:
    """The plan for the same ranks with other devices, which TorchRec's planner does not know."""
    for tables in plan.plan.values():
        for table in tables.values():
            for part in table.sharding_spec.shards if table.sharding_spec is not None else ():
                part.placement = _remote_device(f"rank:{part.placement.rank()}/{device}")
    return plan


def last_batches(dataset: Dataset, case: Case, context: RankContext) -> list[Batch]:
    """Three, of the last of which a part is padding."""
    loss = case.loss
    reading = replace(options(loss.negatives), shared_negatives=loss.shared_negatives)
    batches = list(ExampleReader(dataset, reading, context.rank, context.world_size))[-STEPS:]
    assert min(batches[-1].counts) < len(batches[-1].positives.index)
    return batches


def on_both(dataset: Dataset, case: Case, run: Path) -> dict[str, Any]:
    """This rank's training on CPU and on the accelerator, and the latter's checkpoint loaded."""
    from tests.distributed.pretend import DEVICE, WAITS, Accelerator

    # An operation that the accelerator has no gradient of would give wrong ones.
    warnings.filterwarnings("error", message=".*an autograd kernel was not registered")
    facts = {"global_batch": GLOBAL_BATCH, "loss": 0.0}
    with process_group(60) as context:
        batches = last_batches(dataset, case, context)
        model, optimizer, plan = build(dataset, case, context, None)
        found = {"cpu": trained(model, optimizer, batches, context)}
        found["cpu vectors"] = live_vectors(dataset, case, model, context)
        found["cpu, one more step"] = trained(model, optimizer, batches[:1], context)
        there, plan = replace(context, device=DEVICE), on(DEVICE, plan)
        with Accelerator():
            model, optimizer, _ = build(dataset, case, there, plan)
            found["devices"] = {str(parameter.device) for parameter in model.parameters()}
            found["accelerator"] = trained(model, optimizer, batches, there, WAITS)
            found["accelerator vectors"] = live_vectors(dataset, case, model, there)
            writer = CheckpointWriter(run, there, keep=1)
            before = len(WAITS)
            writer.save(STEPS, model, optimizer, facts)
            found["waits of the checkpoint"] = WAITS[before:]
            writer.finish()
            writer.close()
            model, optimizer, _ = build(dataset, case, there, plan, seed=8)
            restore(newest(run), model, optimizer, GLOBAL_BATCH)
            found["loaded"] = {"state": state(model, optimizer)}
            found["accelerator, one more step"] = trained(model, optimizer, batches[:1], there)
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("world", [1, 2])
def test_training_on_an_accelerator_is_that_on_cpu(
    world: int, name: str, planted: Dataset, tmp_path: Path
) -> None:
    for rank in run_ranks(on_both, world, planted, CASES[name], tmp_path / "run"):
        assert rank["devices"] == {"pretend:0"}
        # TorchRec has waits of its own: for how many ids come from the other ranks, and of which
        # features. Column shards exchange the squares of the rows that a batch has.
        for waits in rank["accelerator"]["waits"]:
            ours = {w.where.split(":")[0] for w in waits if w.whose != "torchrec"}
            assert ours <= ({rowwise_adagrad.__file__} if name == "every type" else set())
        copying = [w for w in rank["waits of the checkpoint"] if "model_state.py" in w.where]
        assert copying == []
        assert_same(rank["loaded"]["state"], rank["accelerator"]["state"], rtol=0, atol=0)
        assert_same(rank["accelerator vectors"], rank["cpu vectors"], rtol=1e-4, atol=1e-5)
        for steps in ("", ", one more step"):
            cpu, accelerator = rank["cpu" + steps], rank["accelerator" + steps]
            # On CPU tables are updated, and logits bounded, in other ways, which round otherwise.
            assert accelerator["losses"] == pytest.approx(cpu["losses"], rel=1e-4)
            assert_same(accelerator["state"], cpu["state"], rtol=1e-5, atol=1e-5)


def on_one(dataset: Dataset, case: Case, device: Device) -> dict[str, Any]:
    """Training on the one device, by a plan that is made for it."""
    with process_group(60, device=device) as context:
        model, optimizer, _ = build(dataset, case, context, None)
        return trained(model, optimizer, last_batches(dataset, case, context), context)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_training_on_a_gpu_is_that_on_cpu(name: str, planted: Dataset) -> None:
    devices: tuple[Device, ...] = ("cpu", "cuda")
    cpu, gpu = (run_ranks(on_one, 1, planted, CASES[name], device)[0] for device in devices)
    assert gpu["losses"] == pytest.approx(cpu["losses"], rel=1e-4)
    assert_same(gpu["state"], cpu["state"], rtol=1e-5, atol=1e-5)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], **within: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert type(found[name]) is Tensor
        torch.testing.assert_close(found[name], tensor, **within, msg=lambda m: f"{name}: {m}")  # noqa: B023
