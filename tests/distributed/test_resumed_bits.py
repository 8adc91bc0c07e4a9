"""A run that is resumed, on any number of ranks, against one that nobody disturbed: the bits."""

from pathlib import Path
from typing import Any

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.checkpoint.restore import restore
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.sharding_rules import SHARDING_TYPES
from tests.checkpoint.saved import saved_tensors
from tests.distributed.exactness import GLOBAL_BATCH, Case, batches
from tests.distributed.moves import build, differences, newest
from tests.distributed.ranks import run_ranks

STEPS = 3
CASES = {
    kind: Case(pins=(f"*={kind},min_partition:4",), optimizer=optimizer)
    for kind, optimizer in zip(
        SHARDING_TYPES, ["rowwise_adagrad", "adagrad"] * len(SHARDING_TYPES), strict=False
    )
} | {
    "losses with a state": Case(of_loss=(("learn_temperature", True), ("queue", 2))),
    "heads for unknown ids": Case(generate=True),
}


def resumed_and_not(dataset: Dataset, folder: Path) -> dict[str, str]:
    """By case, what differs after the last step where every step is a start of its own."""
    with process_group(60) as context:
        found = {}
        for name, case in CASES.items():
            model, optimizer = build(dataset, case, context)
            steps(dataset, case, context, model, optimizer, 0, STEPS)
            save(folder / name / "undisturbed", context, model, optimizer, STEPS)
            for step in range(STEPS):
                model, optimizer = build(dataset, case, context, seed=9 if step else 8)
                if step:
                    restore(newest(folder / name / "resumed"), model, optimizer, GLOBAL_BATCH)
                steps(dataset, case, context, model, optimizer, step, step + 1)
                save(folder / name / "resumed", context, model, optimizer, step + 1)
            expected = saved_tensors(checkpoints(folder / name / "undisturbed")[-1][1])
            found[name] = differences(expected, model, optimizer)
        return found


def steps(
    dataset: Dataset,
    case: Case,
    context: RankContext,
    model: Any,
    optimizer: Any,
    begin: int,
    end: int,
) -> None:
    for batch in batches(dataset, case, context.rank, context.world_size)[begin:end]:
        optimizer.zero_grad()
        loss, _ = model(batch)
        loss.backward()
        optimizer.step()


def save(run: Path, context: RankContext, model: Any, optimizer: Any, step: int) -> None:
    writer = CheckpointWriter(run, context, keep=1)
    writer.save(step, model, optimizer, {"global_batch": GLOBAL_BATCH, "loss": 0.0})
    writer.finish()
    writer.close()


@pytest.mark.parametrize("world", [3, 4])
def test_every_start_of_a_run_goes_on_with_the_same_bits(
    world: int, divisible: Dataset, tmp_path: Path
) -> None:
    for found in run_ranks(resumed_and_not, world, divisible, tmp_path):
        assert found == dict.fromkeys(CASES, "")
