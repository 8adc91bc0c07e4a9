"""Checkpoints saved under one plan and world size, loaded under another, and compared."""

from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dat_rec.checkpoint.find import FoundCheckpoint, newest_whole
from dat_rec.checkpoint.restore import restore
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.model.losses import CandidateQueue
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.table_shards import is_table, plain_name, table_shards
from dat_rec.training.objective import TrainTask
from dat_rec.training.optimizers import build_optimizer
from tests.checkpoint.saved import saved_tensors
from tests.distributed.exactness import (
    GLOBAL_BATCH,
    TABLE_LR,
    TOWER_LR,
    Case,
    batches,
    options,
    task,
)

STEPS = 2


def newest(run: Path) -> FoundCheckpoint:
    """The newest whole checkpoint, of which there must be one."""
    found = newest_whole(run)
    assert found is not None
    return found


def build(dataset: Dataset, case: Case, context: RankContext, seed: int = 8) -> tuple[Any, Any]:
    model, _ = plan_and_shard(
        task(dataset, case, "meta"), {}, context, options(case, context.world_size)
    )
    initialize_tables(model, seed=seed, scale=0.5)
    return model, build_optimizer(model, TOWER_LR, TABLE_LR, case.optimizer)


def build_small(dataset: Dataset, case: Case, context: RankContext) -> tuple[Any, Any]:
    """As ``build``, with narrower tables and towers."""
    small = TrainTask(
        dataset.schema, replace(case.model(), embedding_dim=4), case.loss(), torch.device("meta")
    )
    model, _ = plan_and_shard(small, {}, context, options(case, context.world_size))
    return model, build_optimizer(model, TOWER_LR, TABLE_LR, case.optimizer)


def refusals(dataset: Dataset, run: Path) -> dict[str, str]:
    """What ``restore`` says where the checkpoint ``run``, by RowWiseAdagrad, does not fit."""
    said = {}
    with process_group(60) as context:
        for name, case, build_it, batch in (
            ("`--optimizer.table adagrad`", Case(optimizer="adagrad"), build, GLOBAL_BATCH),
            ("without augmented vectors", Case("two-tower"), build, GLOBAL_BATCH),
            ("`--model.embedding-dim 4`", Case(), build_small, GLOBAL_BATCH),
            ("another global batch", Case(), build, 2 * GLOBAL_BATCH),
        ):
            model, optimizer = build_it(dataset, case, context)
            try:
                restore(newest(run), model, optimizer, batch)
                said[name] = "loaded"
            except UserError as error:
                said[name] = str(error)
    return said


def save_all(dataset: Dataset, folder: Path, cases: dict[str, Case]) -> None:
    """Train two steps under every case's plan, and save into folder/NAME."""
    with process_group(60) as context:
        for name, case in cases.items():
            model, optimizer = build(dataset, case, context, seed=7)
            for batch in batches(dataset, case, context.rank, context.world_size)[:STEPS]:
                optimizer.zero_grad()
                loss, _ = model(batch)
                loss.backward()
                optimizer.step()
            writer = CheckpointWriter(folder / name, context, keep=1)
            writer.save(STEPS, model, optimizer, {"global_batch": GLOBAL_BATCH, "loss": 0.0})
            writer.finish()
            writer.close()


def load_all(
    dataset: Dataset,
    folder: Path,
    cases: dict[str, Case],
    wanted: Set[tuple[str, str]] | None = None,
) -> dict[tuple[str, str], str]:
    """By source's name and case: "exact", or how it was refused, or what is wrong.

    All of them, or those that are ``wanted``.
    """
    verdicts = {}
    with process_group(60) as context:
        runs = {path.name: newest(path) for path in sorted(folder.iterdir())}
        expected = {name: saved_tensors(checkpoint.folder) for name, checkpoint in runs.items()}
        for name, case in cases.items():
            model, optimizer = build(dataset, case, context)
            for source, checkpoint in runs.items():
                if wanted is not None and (source, name) not in wanted:
                    continue
                verdicts[source, name] = _load(checkpoint, expected[source], model, optimizer)
    return verdicts


def _load(
    checkpoint: FoundCheckpoint, expected: dict[str, Tensor], model: Any, optimizer: Any
) -> str:
    try:
        found = restore(checkpoint, model, optimizer, GLOBAL_BATCH)
    except UserError as error:
        return f"refused: {error}"
    if found["step"] != STEPS:
        return "another step"
    return differences(expected, model, optimizer) or "exact"


def differences(expected: dict[str, Tensor], model: Any, optimizer: Any) -> str:
    """The first thing on this rank that is not what was saved, bit for bit; or nothing."""
    for shard in table_shards(model, optimizer):
        name = f"tables/{shard.table}"
        rows, columns = shard.weights.shape
        part = slice(shard.row, shard.row + rows), slice(shard.column, shard.column + columns)
        if not torch.equal(expected[f"{name}/weight"][part], shard.weights):
            return f"{name}/weight differs"
        sums = shard.accumulator
        assert sums is not None
        if not torch.equal(expected[f"{name}/accumulator"][part[: sums.dim()]], sums):
            return f"{name}/accumulator differs"
    for module in model.modules():
        if isinstance(module, CandidateQueue):
            for name, kept in module.state().items():
                if not torch.equal(expected[f"queue/{name}"], kept):
                    return f"queue/{name} differs"
    towers = dict(optimizer.optimizers)["towers"]
    for parameter_name, parameter in model.named_parameters():
        name = plain_name(parameter_name)
        if is_table(parameter_name):
            continue
        if not torch.equal(expected[f"towers/{name}"], parameter):
            return f"towers/{name} differs"
        for key, value in towers.state[parameter].items():
            if not torch.equal(expected[f"adam/{name}/{key}"], value):
                return f"adam/{name}/{key} differs"
    return ""
