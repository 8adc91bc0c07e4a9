"""Every benchmark script runs; what it prints is a JSON line with its circumstances."""

import json
import math
import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.calibrate import WAYS, Arguments, Step, fit_bandwidths, fit_costs
from benchmarks.ebcs import LAYOUTS
from benchmarks.fidelity import ESTIMATES
from benchmarks.pictures import fidelity, sweep
from benchmarks.plans import TYPES, Planner
from benchmarks.quality import SETUPS, table
from benchmarks.sweep import SHAPES, as_in_training
from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.planner.cost_estimate import RankEstimate
from dat_rec.planner.hardware import Cluster, Cost, Hardware, Way
from dat_rec.planner.plan_request import find_plan
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.planner.table_file import Table
from dat_rec.planner.topology_file import read_cluster
from tests.planner.described import request

CIRCUMSTANCES = {"benchmark", "command", "commit", "date", "hardware", "torch", "torchrec"}


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    # On CPU, on hosts with GPUs too: several of them start more ranks than there may be GPUs.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_loop() -> None:
    row = json.loads(run("benchmarks.train_loop", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    rates = row["samples_per_s_by_step"]
    assert 0 < rates["p10"] <= rates["p50"] <= rates["p90"] < math.inf
    assert 0 <= row["data_wait_share"] < 1
    assert row["peak_memory_mb"] > 0


def test_train_step() -> None:
    lines = run("benchmarks.train_step", "--smoke").splitlines()
    *named, row = [json.loads(line) for line in lines if line.startswith("{")]
    assert row.keys() >= CIRCUMSTANCES
    figures = {figure["name"]: figure["value"] for figure in named}
    ratios = {"dat_over_two_tower", "alignment_share", "speedup_over_plain_pytorch"}
    assert figures.keys() >= ratios | {"small_samples_per_s"}
    assert all(value > 0 for value in figures.values())
    assert row["device"] == "cpu"
    assert row["samples_per_s"].keys() == {"dat", "bfloat16", "two_tower", "fbgemm", "plain"}
    assert row["parts_ms"].keys() >= {"lookup", "towers", "losses", "table update", "optimizer"}


@pytest.mark.slow
def test_scaling() -> None:
    lines = run("benchmarks.scaling", "--smoke").splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row.get("world_size") for row in rows] == [1, 2, None]
    assert all(row.keys() >= CIRCUMSTANCES - {"benchmark"} for row in rows)
    assert rows[-1]["name"] == "two_rank_speedup"
    assert rows[-1]["value"] == rows[1]["speedup"]["p50"] > 0


def test_checkpoint() -> None:
    row = json.loads(run("benchmarks.checkpoint", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    assert row["bytes"] > 2 * 10_000 * 33 * 4
    for name in ("copy", "background_stall", "background_write", "waiting_stall"):
        assert 0 < row[f"{name}_s"]["p50"] < 10
    assert row["background_stall_s"]["p50"] < row["background_write_s"]["p50"]


@pytest.mark.slow
def test_reader() -> None:
    row, ratio = map(json.loads, run("benchmarks.reader", "--smoke").splitlines()[-2:])
    assert row.keys() >= CIRCUMSTANCES
    rates = [row[f"{name}_samples_per_s"] for name in ("reader", "trainer")]
    assert all(0 < rate["p10"] <= rate["p50"] <= rate["p90"] < math.inf for rate in rates)
    assert row["reader_over_trainer"]["p10"] > 0
    assert ratio == {
        "name": "reader_over_trainer",
        "value": row["reader_over_trainer"]["p50"],
    }


def test_negatives() -> None:
    lines = run("benchmarks.negatives", "--smoke").splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row["what"] for row in rows] == ["drawing", "batches", "batches", "batches"]
    assert all(row.keys() >= CIRCUMSTANCES for row in rows)
    assert all(rate["p50"] > 0 for rate in rows[0]["draws_per_s"].values())
    assert all(0 < row["drawing_share"]["p50"] < 1 for row in rows[1:])


def test_retrieval() -> None:
    row = json.loads(run("benchmarks.retrieval", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    points = {point["search"]: point for point in row["points"]}
    assert points["product"]["recall"] == 1
    probed = [point["recall"] for name, point in points.items() if "nprobe" in name]
    assert probed == sorted(probed)
    assert 0 < probed[0] < 0.9 < probed[-1] <= 1
    assert all(point["queries_per_s"]["p10"] > 0 for point in points.values())


@pytest.mark.slow
def test_ebcs() -> None:
    row = json.loads(run("benchmarks.ebcs", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    assert row["step_ms"].keys() == set(LAYOUTS)
    tables = {name: len(plan) for name, plan in row["sharding"].items()}
    assert tables == {"two collections": 5, "one collection": 5, "wide rows": 3}
    assert all(0 < ratio["p50"] < 10 for ratio in row["of_two_collections"].values())


@pytest.mark.slow
def test_kernels() -> None:
    row = json.loads(run("benchmarks.kernels", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    assert (row["world_size"], row["rows"]) == (1, 1_000)
    assert 0.1 < row["dense_over_fused"]["p50"] < 10


@pytest.mark.slow
def test_comms() -> None:
    lines = run("benchmarks.comms", "--smoke").splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert [row["sharding"] for row in rows] == ["table_wise", "row_wise"]
    for row in rows:
        assert row.keys() >= CIRCUMSTANCES
        # Float16 has changed what was sent, and little else.
        assert 0 < row["loss_difference"] < 0.01


@pytest.mark.slow
def test_meituan() -> None:
    row = json.loads(run("benchmarks.meituan", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    full = row["planned_in_full"]
    assert full["float32"]["fits"]
    weights = 2 * (82_347_275 + 3_561_499) * 32 * 4
    assert full["float32"]["all_ranks_bytes"] > weights > full["float16"]["all_ranks_bytes"]
    assert row["users"] == 8235
    # Float16 weights and one float32 for each row; the categories' weights are float32.
    wanted = 2 * (8235 + 357) * (32 * 2 + 4) + 10 * (32 * 4 + 4)
    assert row["measured_bytes"]["tables"] == wanted


def test_plot(tmp_path: Path) -> None:
    drawn = [Path(line) for line in run("benchmarks.plot", "--out", tmp_path).splitlines()]
    assert drawn
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < path.stat().st_size < 150_000


def test_calibrate_and_fidelity(tmp_path: Path) -> None:
    topology = tmp_path / "topology.json"
    row = json.loads(run("benchmarks.calibrate", "--smoke", "--out", topology).splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    hardware = read_cluster(topology).hardware
    assert not hardware.measured
    assert all(
        row["bandwidths_gb_s"][name]["p50"] == one for name, one in hardware.bandwidths.items()
    )
    assert len(hardware.costs) == 5
    printed = run("benchmarks.fidelity", "--smoke", "--topology", topology).splitlines()
    rows = [json.loads(line) for line in printed if line.startswith("{")]
    assert all(row.keys() >= CIRCUMSTANCES for row in rows)
    assert [row["name"] for row in rows[-2:]] == ["planner_rank_correlation", "planner_regret"]
    assert -1 <= rows[-2]["value"] <= 1
    assert rows[-1]["value"] >= 0
    plans = rows[:-2]
    assert {row["plan"] for row in plans} >= {"table_wise", "row_wise", "one rank"}
    assert sorted(kind for row in plans for kind in row["chosen_by"]) == sorted(ESTIMATES)
    assert len(fidelity.draw(rows).axes) == 2


@pytest.mark.slow
def test_sweep() -> None:
    printed = run("benchmarks.sweep", "--smoke").splitlines()
    rows = [json.loads(line) for line in printed if line.startswith("{")]
    assert all(row.keys() >= CIRCUMSTANCES for row in rows)
    assert {row["sharding_type"] for row in rows} == {*TYPES, "default"}
    for row in rows:
        rates = row["samples_per_s"]
        assert 0 < rates["p10"] <= rates["p50"] <= rates["p90"] < math.inf
        assert 0 < row["samples_per_busiest_cpu_s"] < math.inf
    assert len(sweep.draw(rows).axes) == 1


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_training_plans_what_the_sweep_found_quickest(name: str, world: int) -> None:
    """Table-wise, for all its tables (results/sweep.jsonl)."""
    planner = Planner(SHAPES[name], world)
    cluster = as_in_training(Cluster(Hardware("here", "cpu", None, 256), 1, world))
    found = planner.plan(cluster, types=TrainConfig(Path(), Path()).sharding_types)
    assert {row["sharding_type"] for row in plan_to_json(found)} == {"table_wise"}


def test_costs_are_found_again_in_steps_made_of_them() -> None:
    """Steps of five shapes with constants of their own; every fifth number is cost-free."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0.5, 2.0, (len(WAYS), 5)) * (np.arange(5) != 4)
    steps = []
    for shape in range(5):
        own = Cost(*rng.uniform(1e6, 2e6, 4), 0.0)
        constant = sum(factor * 3.0 for factor in astuple(own)) / 1e6
        for at, kind in enumerate(WAYS):
            for number in range(2):
                work = rng.uniform(1e5, 9e5, 5)
                step_ms = constant + float(work @ true[at]) / 1e6
                factors: dict[Way, Cost] = {kind: Cost(*work), "every_rank": own}
                steps.append(Step(str(shape), f"{kind} {number}", [step_ms], factors))
    costs, errors, _ = fit_costs(steps)
    assert errors["p90"] < 1e-6
    for at, kind in enumerate(WAYS):
        assert astuple(costs[kind]) == pytest.approx(tuple(true[at]), abs=1e-3)
    assert astuple(costs["every_rank"])[:4] == pytest.approx((3.0,) * 4, rel=1e-3)


def test_bandwidths_make_torchrecs_formula_right() -> None:
    """The estimate of a table on one of two ranks is the time that its bandwidth came from."""
    arguments = Arguments(dim=64, lookups=1024, ranks=2, exchanged_mb=2)
    seconds = {"lookup_update": [0.003], "all_to_all": [0.004], "all_reduce": [0.005]}
    found = {name: one["p50"] for name, one in fit_bandwidths(seconds, arguments).items()}
    cluster = Cluster(Hardware("here", "cpu", None, 64, found), 1, 2)

    def estimate(kind: str, rows: int) -> RankEstimate:
        table = Table("one", rows, 64, 1.0)
        asked = request([table], cluster, batch_size=512, pins=(f"one={kind}",))
        answer = find_plan(asked)
        assert answer.estimate is not None
        return max(answer.estimate.ranks.values(), key=lambda one: one.step_ms)

    one = estimate("table_wise", 4096)
    assert one.forward_ms + one.backward_ms == pytest.approx(3.0)
    # 1024 vectors of 64 numbers are 2**18 bytes, of the 2 MB that take 4 ms.
    assert one.output_ms == pytest.approx(4.0 * 2**18 / 2e6)
    assert one.gradient_ms == one.output_ms


@pytest.mark.slow
def test_quality(planted: Dataset, tmp_path: Path) -> None:
    printed = run(
        "benchmarks.quality", "--data", planted.folder, "--work", tmp_path, "--smoke"
    ).splitlines()
    rows = [json.loads(line) for line in (tmp_path / "smoke.jsonl").read_text().splitlines()]
    assert [row["setup"] for row in rows] == ["paper", "modern (both)"]
    for row in rows:
        assert row.keys() >= CIRCUMSTANCES
        assert 0 <= row["all"]["HR@50"] <= row["all"]["HR@100"] <= 1
    assert printed[-1].startswith("| modern (both) | 1 |")


def test_the_table_is_mean_and_sample_deviation() -> None:
    def row(seed: int, value: float) -> dict[str, Any]:
        figures = {"HR@50": value, "HR@100": value, "MRR": value}
        return {"setup": "modern (both)", "seed": seed, "all": figures, "new_pairs": figures}

    text = table([row(0, 0.1), row(1, 0.2), row(2, 0.3)])
    assert text.splitlines()[-1].count(".2000 ± .1000") == 6
    assert "modern (both)" in SETUPS
