"""Build what a configuration describes: the sharded model with its plan, the reader's options."""

import importlib.util
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from dat_rec.config import TrainConfig
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ITEM, UNKNOWN, Side
from dat_rec.data.stream.list_lengths import mean_list_lengths
from dat_rec.data.stream.reader_options import OPTION_CURE, ReaderOptions
from dat_rec.dist.agree import broadcast_from_rank_0, together
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.model.losses import max_categories
from dat_rec.model.products import Library, has_onednn, multiplies_bfloat16, multiply_by
from dat_rec.model.towers import TowerFactory
from dat_rec.planner.cost_estimate import PlanEstimate
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.sharding.initial_tables import fill_rows, initialize_tables
from dat_rec.sharding.options import ShardingOptions
from dat_rec.training.item_factors import item_factors
from dat_rec.training.objective import TrainTask
from dat_rec.training.quickest_products import quickest

ROWS_A_MESSAGE = 1 << 16
"""Rows of the item table that rank 0 tells the others at a time."""

SLOW_BFLOAT16 = (
    "warning: --model.precision bfloat16: this processor has no instructions for it, and takes "
    "several times as long as for float32: leave it out here"
)


def build_model(
    config: TrainConfig,
    dataset: Dataset,
    context: RankContext,
    batch_size: int | None = None,
    estimate: PlanEstimate | None = None,
    tower: TowerFactory | None = None,
) -> tuple[DistributedModelParallel, list[dict[str, Any]]]:
    """Plan, shard and initialise the model; its weights depend on the random seed alone.

    Args:
        config: every option of the run.
        dataset: its features become the model's.
        context: this process's.
        batch_size: examples a batch on each rank; None: those of ``config``.
        estimate: is filled on rank 0 with the memory and time that the planner expects.
        tower: makes towers of your own, in place of those that ``config.model`` describes.

    Returns:
        The model, and its plan as JSON values, of ``plan_to_json``.
    """
    torch.manual_seed(config.seed)
    rows = batch_size or config.batch_size
    meta = torch.device("meta")
    fused = config.softmax == "fused"
    if fused:
        with together():
            check_fused(context.device, config)
    task = TrainTask(
        dataset.schema, config.model, config.loss, meta, context.world_size, tower, fused=fused
    )
    factors = pooling_factors(dataset, BadIds(config.examples.bad_ids, OPTION_CURE))
    options = sharding_options(config, rows + config.loss.shared_rows(context.world_size))
    model, plan = plan_and_shard(task, factors, context, options, estimate)
    initialize_tables(model, config.seed, config.optimizer.table_init)
    choose_products(config, model, context)
    on_cpu, in_bfloat16 = context.device.type == "cpu", config.model.precision == "bfloat16"
    if on_cpu and in_bfloat16 and context.is_rank_zero and not multiplies_bfloat16():
        print(SLOW_BFLOAT16, file=sys.stderr)
    return model, plan_to_json(plan)


def check_fused(device: torch.device, config: TrainConfig) -> None:
    """Refuse the fused softmax where it cannot run.

    Raises:
        UserError: no GPU, no Triton, or vectors in float64.
    """
    cure = "leave --softmax out"
    if device.type != "cuda":
        raise UserError(f"--softmax fused: its kernels are for NVIDIA GPUs: {cure}")
    if config.model.precision == "float64":
        raise UserError(f"--softmax fused with --model.precision float64: it is float32: {cure}")
    if importlib.util.find_spec("triton") is None:
        raise UserError(f"--softmax fused: this environment has no triton: install it, or {cure}")


def choose_products(config: TrainConfig, model: nn.Module, context: RankContext) -> None:
    """Let the towers multiply float32 on CPU by what all ranks take: the quickest on rank 0's host.

    Raises:
        UserError: the library that is asked for is not there.
    """
    if context.device.type != "cpu" or config.model.precision != "float32":
        return
    with together():
        if config.matmul == "onednn" and not has_onednn():
            raise UserError("--matmul onednn: this build of PyTorch has none: leave it out")
    library: Library | None = None if config.matmul == "auto" else config.matmul
    if library is None:
        library = broadcast_from_rank_0(quickest() if context.is_rank_zero else None)
    multiply_by(library, model)


def begin_with_factors(
    config: TrainConfig,
    model: DistributedModelParallel,
    dataset: Dataset,
    context: RankContext,
) -> None:
    """Let the item table begin with ``item_factors``, to the same bits under every plan.

    Rank 0 finds them and tells the others some rows at a time, so that no other holds them all.

    Raises:
        UserError: the pairs cannot be read.
    """
    begin, factors_TD = time.monotonic(), None
    with together():
        if context.is_rank_zero:
            factors_TD = item_factors(dataset, config.model.embedding_dim, config.seed)
    rows = dataset.item_columns(BadIds("unknown"))[ITEM].values[: dataset.schema.trained_items]
    table = f"dat.embeddings.{dataset.schema.feature(ITEM).table}"
    for start in range(0, len(rows), ROWS_A_MESSAGE):
        part = slice(start, start + ROWS_A_MESSAGE)
        values = broadcast_from_rank_0(None if factors_TD is None else factors_TD[part])
        # Items of the unknown row, and those that the factors tell nothing of, begin as they are.
        told = (rows[part] != UNKNOWN) & values.any(axis=1)
        fill_rows(model, table, rows[part][told].astype(np.int64), values[told])
    if context.is_rank_zero:
        seconds = time.monotonic() - begin
        print(f"items begin with their factors, found in {seconds:.0f} s", file=sys.stderr)


def pooling_factors(dataset: Dataset, bad_ids: BadIds) -> dict[str, float]:
    """Return the mean number of values in a bag (the pooling factor) of each feature with lists.

    It is the mean over users, as of the split, or over the items of the catalogue; at least 1.

    Args:
        dataset: a prepared dataset.
        bad_ids: what to do with ids outside their table, where the files' metadata betray them.
    """
    schema = dataset.schema
    means = {}
    files: list[tuple[str, Side, int]] = [
        ("users", "query", schema.users),
        ("items", "item", schema.items),
    ]
    for name, side, rows in files:
        path, features = dataset.folder / f"{name}.parquet", schema.side(side)
        means.update(mean_list_lengths(path, features, rows, bad_ids))
    return {name: max(1.0, mean) for name, mean in means.items()}


def sharding_options(config: TrainConfig, batch_size: int) -> ShardingOptions:
    """Return the options of planning and sharding, for ``batch_size`` examples on each rank."""
    return ShardingOptions(
        batch_size=batch_size,
        table_lr=config.optimizer.table_lr,
        optimizer=config.optimizer.table,
        sharding_types=config.sharding_types,
        pins=config.pin,
        memory_gb=config.memory_gb,
        comms=config.comms,
        sharding_group_size=config.sharding_group_size,
        topology=config.topology,
    )


def reader_options(config: TrainConfig, global_batch: int) -> ReaderOptions:
    """Return the options of the reader, for ``global_batch`` examples a step on all ranks."""
    return ReaderOptions(
        global_batch=global_batch,
        epochs=config.epochs,
        seed=config.seed,
        negatives=config.loss.negatives,
        shared_negatives=config.loss.shared_negatives,
        in_batch=config.loss.in_batch,
        negative_power=config.loss.negative_power,
        log_q=config.loss.log_q,
        own_log_q=config.loss.own_log_q,
        popularity=config.loss.popularity_weight(),
        id_dropout=config.examples.id_dropout,
        user_dropout=config.examples.user_dropout,
        unknown_count=config.loss.unknown_count if config.loss.popularity_weight() else "one",
        skip_repeats=config.examples.skip_repeats,
        bad_ids=config.examples.bad_ids,
        lanes=config.examples.lanes,
        shuffle_mb=config.examples.shuffle_mb,
        categories=max_categories(config.model.output_dim) if config.loss.alignment else None,
    )
