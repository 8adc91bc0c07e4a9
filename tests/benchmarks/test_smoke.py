"""Every benchmark script runs; what it prints is a JSON line with its circumstances."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
