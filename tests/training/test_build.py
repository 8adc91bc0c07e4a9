"""What the loop tells the planner of a dataset, beside counts by hand."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dat_rec.config import TrainConfig, preset
from dat_rec.data.columns import BadIds
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.errors import UserError
from dat_rec.planner.cost_estimate import PlanEstimate, RankEstimate
from dat_rec.planner.plan_and_shard import plan_and_shard
from dat_rec.training.build import (
    build_model,
    check_fused,
    pooling_factors,
    sharding_options,
)
from dat_rec.training.objective import TrainTask


def counted(dataset: Dataset) -> dict[str, float]:
    """Mean number of values of every feature that has lists, counted one by one."""
    found = {}
    for feature in dataset.schema.features:
        if feature.multi_valued:
            side = "users" if feature.side == "query" else "items"
            lists = dataset.table(side, [feature.name])[feature.name].to_pylist()
            found[feature.name] = sum(len(values) for values in lists) / len(lists)
    return found


def test_pooling_factors_are_the_mean_lengths_of_lists(planted: Dataset) -> None:
    expected = counted(planted)
    assert max(expected.values()) > 5
    found = pooling_factors(planted, BadIds("refuse", ""))
    assert found == pytest.approx({name: max(1.0, mean) for name, mean in expected.items()})


def test_the_planner_counts_with_them(planted: Dataset) -> None:
    config = preset("modern", planted.folder, Path("run"))
    config = replace(config, batch_size=64)
    with process_group(60) as context:
        estimate = PlanEstimate()
        build_model(config, planted, context, estimate=estimate)
        assert estimate.ranks == planned(config, planted, context, counted(planted))
        assert estimate.ranks != planned(config, planted, context, {})


def planned(
    config: TrainConfig, dataset: Dataset, context: RankContext, factors: dict[str, float]
) -> dict[int, RankEstimate]:
    estimate = PlanEstimate()
    meta = torch.device("meta")
    task = TrainTask(dataset.schema, config.model, config.loss, meta, context.world_size)
    batch = config.batch_size + config.loss.shared_rows(context.world_size)
    plan_and_shard(task, factors, context, sharding_options(config, batch), estimate)
    return estimate.ranks


def flags() -> set[str]:
    """What Linux says that the processor can do."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="tells the processor's flags on x86")
def test_bfloat16_on_a_processor_without_it_warns(
    planted: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    config = replace(preset("modern", planted.folder, Path("run")), batch_size=64)
    half = replace(config, model=replace(config.model, precision="bfloat16"))
    has_it = bool(flags() & {"avx512_bf16", "amx_bf16"})
    with process_group(60) as context:
        build_model(config, planted, context)
        assert "bfloat16" not in capfd.readouterr().err
        build_model(half, planted, context)
    assert ("warning: --model.precision bfloat16" in capfd.readouterr().err) == (not has_it)


def test_the_fused_softmax_is_refused_where_it_cannot_run(planted: Dataset) -> None:
    config = replace(preset("modern", planted.folder, Path("run")), softmax="fused")
    with process_group(60) as context, pytest.raises(UserError, match="are for NVIDIA GPUs"):
        build_model(config, planted, context)
    exact = replace(config, model=replace(config.model, precision="float64"))
    with pytest.raises(UserError, match="it is float32: leave --softmax out"):
        check_fused(torch.device("cuda"), exact)
