"""Every benchmark script runs; what it prints is a JSON line with its circumstances."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ebcs import LAYOUTS
from benchmarks.quality import SETUPS, table
from dat_rec.data.dataset import Dataset

CIRCUMSTANCES = {"benchmark", "command", "commit", "date", "hardware", "torch", "torchrec"}


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_step() -> None:
    row = json.loads(run("benchmarks.train_step", "--smoke").splitlines()[-1])
    assert row.keys() >= CIRCUMSTANCES
    rates = row["samples_per_s_by_step"]
    assert 0 < rates["p10"] <= rates["p50"] <= rates["p90"] < math.inf
    assert 0 <= row["data_wait_share"] < 1
    assert row["peak_memory_mb"] > 0


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
    assert rates[0]["p90"] / rates[1]["p10"] >= row["reader_over_trainer"]["p90"] > 0
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
        assert 5_000 < path.stat().st_size < 80_000


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
