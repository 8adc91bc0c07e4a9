"""Every benchmark script runs; what it prints is a JSON line with its circumstances."""

import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.calibrate import CHOICES, Arguments, Step, fit_bandwidths, fit_costs
from benchmarks.fidelity import ESTIMATES
from benchmarks.pictures import fidelity, sweep
from benchmarks.plans import TYPES, Planner
from benchmarks.sweep import SHAPES, as_in_training
from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.planner.cost_estimate import RankEstimate
from dat_rec.planner.hardware import Cluster, Cost, CostKind, Hardware
from dat_rec.planner.plan_request import find_plan
from dat_rec.planner.plan_table import plan_to_json
from dat_rec.planner.table_file import Table
from dat_rec.planner.topology_file import read_cluster
from dat_rec.retrieval.export import export
from tests.object_store import ObjectStore
from tests.planner.described import request
from tests.retrieval.world import write_dataset, write_run

SMOKE = ("--smoke", "--device", "cpu")
"""On CPU, on hosts with GPUs too: several scripts start more ranks than there may be GPUs."""
CIRCUMSTANCES = {"benchmark", "command", "commit", "date", "hardware", "torch", "torchrec"}
Run = Callable[..., list[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a script's ``main`` with arguments; gives the lines that it prints."""

    def run(script: str, *arguments: str | Path) -> list[str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        importlib.import_module(f"benchmarks.{script}").main()
        return capsys.readouterr().out.splitlines()

    return run


def rows(lines: list[str]) -> list[dict[str, Any]]:
    """What JSON lines say; every one has its circumstances."""
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert found
    assert all(row.keys() >= CIRCUMSTANCES for row in found)
    return found


def test_prepare(run: Run, tmp_path: Path) -> None:
    row = rows(run("prepare", "--smoke", "--work", tmp_path))[-1]
    assert row["interactions"] == 20_000
    assert 0 < row["rows_per_s"] < math.inf
    assert 50 < row["own_peak_mb"] <= row["peak_mb"] < 4_000
    assert row["dataset_mb"] < row["disk_mb"] + 1
    assert sum(stage["cpu_s"] for stage in row["stages"]) == pytest.approx(row["cpu_s"])


def test_uvm(run: Run) -> None:
    (row,) = rows(run("uvm", *SMOKE))
    assert (row["kernel"], row["rows"], row["device"]) == ("fused", 1000, "cpu")
    assert 0 < row["p10"] <= row["value"] <= row["p90"] < math.inf


def test_prepare_days(run: Run, tmp_path: Path) -> None:
    row = rows(run("prepare_days", "--smoke", "--work", tmp_path))[-1]
    assert [day["past"] for day in row["days"]] == [0, 2_000, 4_000, 6_000]
    assert row["cpu_s_times"] == row["days"][3]["cpu_s"] / row["days"][2]["cpu_s"]
    assert 0.5 < row["peak_mb_times"] < 2


def test_daily(run: Run, tmp_path: Path) -> None:
    found = rows(run("daily", *SMOKE, "--work", tmp_path, "--seeds", "3", "4"))
    assert [row["seed"] for row in found] == [3, 4]
    seed = found[-1]
    # On the first scored day the model of the first day is all that there is.
    assert seed["hr100"]["daily modern"] == seed["hr100"]["anew"] == seed["hr100"]["untouched"]
    assert 0 < seed["hr100"]["daily two-tower"][0] <= 1
    assert seed["cpu_s"].keys() == {"daily modern", "daily two-tower", "anew"}


def test_train_loop(run: Run) -> None:
    row = rows(run("train_loop", *SMOKE))[-1]
    rates = row["samples_per_s_by_step"]
    assert 0 < rates["p10"] <= rates["p50"] <= rates["p90"] < math.inf
    assert 0 <= row["data_wait_share"] < 1
    assert row["peak_memory_mb"] > 0


def test_train_step(run: Run) -> None:
    *named, row = rows(run("train_step", *SMOKE))
    figures = {figure["name"]: figure["value"] for figure in named}
    ratios = {"dat_over_two_tower", "alignment_share", "speedup_over_plain_pytorch"}
    assert figures.keys() >= ratios | {"small_samples_per_s"}
    assert all(value > 0 for value in figures.values())
    assert row["device"] == "cpu"
    assert row["samples_per_s"].keys() == {"dat", "bfloat16", "two_tower", "fbgemm", "plain"}
    assert row["parts_ms"].keys() >= {"lookup", "towers", "losses", "table update", "optimizer"}


@pytest.mark.slow
def test_scaling(run: Run) -> None:
    found = rows(run("scaling", *SMOKE))
    assert [row.get("world_size") for row in found] == [1, 2, None]
    assert found[-1]["name"] == "two_rank_speedup"
    assert found[-1]["value"] == found[1]["speedup"]["p50"] > 0


def test_checkpoint(run: Run) -> None:
    row = rows(run("checkpoint", *SMOKE))[-1]
    assert row["bytes"] > 2 * 10_000 * 33 * 4
    for name in ("copy", "background_stall", "background_write", "waiting_stall"):
        assert 0 < row[f"{name}_s"]["p50"] < 10
    assert row["background_stall_s"]["p50"] < row["background_write_s"]["p50"]


@pytest.mark.slow
def test_memory(run: Run, tmp_path: Path) -> None:
    found = rows(run("memory", *SMOKE, "--work", tmp_path / "work"))
    assert [row["measured"] for row in found] == ["train", "export"]
    # Two tables of 50,000 and two of 301 rows, and one of 11 categories, 32 numbers in each row.
    assert found[0]["tables_mb"] == (2 * 50_000 + 2 * 301 + 11) * 32 * 4 / 2**20
    assert all(0.5 < row["over_stated"] < 2 for row in found)
    assert not (tmp_path / "work").exists()


def test_reader(run: Run) -> None:
    *_, line, last = run("reader", *SMOKE)
    (row,), ratio = rows([line]), json.loads(last)
    rates = [row[f"{name}_samples_per_s"] for name in ("reader", "trainer")]
    assert all(0 < rate["p10"] <= rate["p50"] <= rate["p90"] < math.inf for rate in rates)
    assert row["reader_over_trainer"]["p10"] > 0
    assert row["one_rank_per_cpu_s"]["p10"] > 0
    # Two ranks read half as much each; what else the machine does counts in no CPU time.
    assert 0.5 < row["two_ranks_over_one_rank"]["p50"] < 4
    assert ratio == {
        "name": "reader_over_trainer",
        "value": row["reader_over_trainer"]["p50"],
    }


@pytest.mark.slow
def test_comms(run: Run) -> None:
    found = rows(run("comms", *SMOKE))
    assert [row["sharding"] for row in found] == ["table_wise", "row_wise"]
    for row in found:
        # Float16 has changed what was sent, and little else.
        assert 0 < row["loss_difference"] < 0.01


def test_index(run: Run) -> None:
    *lines, head, _, ivf, hnsw = run("index", "--smoke", "--recalls", "0.9", "--items", "1000")
    found = rows(lines)
    assert [row["kind"] for row in found] == ["ivf", "hnsw"]
    assert all(row["recall"] > 0.85 and row["queries"] == 100 for row in found)
    assert head.startswith("| kind | recall | times the exact search |")
    assert f"| ivf | {found[0]['recall']:.4f} |" in ivf
    assert f"| hnsw | {found[1]['recall']:.4f} |" in hnsw


def test_worlds(run: Run, tmp_path: Path) -> None:
    *lines, head, rule, first, second = run("worlds", *SMOKE, "--work", tmp_path)
    found = rows(lines)
    assert [row["shape"] for row in found] == ["ids", "repeats"]
    for row in found:
        best, bayes = (row[name]["HR@100"] for name in ("best", "bayes"))
        assert 0.3 < row["all"]["HR@100"] < 1.05 * bayes
        assert bayes < best <= 1
        assert row["ratio"] == pytest.approx(row["all"]["HR@100"] / bayes)
        fitted = [row["baselines"][name]["all"]["HR@100"] for name in ("ItemCF", "iALS")]
        assert row["lead"] == pytest.approx(row["all"]["HR@100"] / max(fitted))
    assert found[0]["blend"] is None
    blended = found[1]["blend"]["all"]["HR@100"]
    assert blended >= found[1]["all"]["HR@100"] - 0.02
    assert found[1]["blend_ratio"] == pytest.approx(blended / found[1]["bayes"]["HR@100"])
    assert head.startswith("| shape | seed | oracle | Bayes | ours | + history | ItemCF | iALS |")
    assert len({line.count("|") for line in (head, rule, first, second)}) == 1


def test_worlds_are_judged_on_validation(run: Run, tmp_path: Path) -> None:
    flags = ("--validation-share", "0.2", "--flags=--loss.temperature .1")
    found = rows(run("worlds", *SMOKE, "--work", tmp_path, *flags))
    assert [row["shape"] for row in found] == ["ids", "repeats"]
    for row in found:
        assert row["flags"][:2] == ["--loss.temperature", ".1"]
        assert 0.3 < row["validation"]["all"]["HR@100"] < 1
        assert row["validation"]["all"]["queries"] > 300


def test_plot(run: Run, tmp_path: Path) -> None:
    drawn = [Path(line) for line in run("plot", "--out", tmp_path)]
    assert drawn
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < path.stat().st_size < 150_000


def test_calibrate_and_fidelity(run: Run, tmp_path: Path) -> None:
    topology = tmp_path / "topology.json"
    row = rows(run("calibrate", *SMOKE, "--out", topology))[-1]
    hardware = read_cluster(topology).hardware
    assert not hardware.measured
    assert all(
        row["bandwidths_gb_s"][name]["p50"] == one for name, one in hardware.bandwidths.items()
    )
    assert len(hardware.costs) == 5
    found = rows(run("fidelity", *SMOKE, "--topology", topology))
    *plans, correlation, regret = found
    names = [correlation["name"], regret["name"]]
    assert names == ["planner_rank_correlation", "planner_regret"]
    assert -1 <= correlation["value"] <= 1
    assert regret["value"] >= 0
    assert {row["plan"] for row in plans} >= {"table_wise", "row_wise", "one rank"}
    assert sorted(kind for row in plans for kind in row["chosen_by"]) == sorted(ESTIMATES)
    assert len(fidelity.draw(found).axes) == 2


@pytest.mark.slow
def test_sweep(run: Run) -> None:
    found = rows(run("sweep", *SMOKE))
    assert {row["sharding_type"] for row in found} == {*TYPES, "default"}
    for row in found:
        rates = row["samples_per_s"]
        assert 0 < rates["p10"] <= rates["p50"] <= rates["p90"] < math.inf
        assert 0 < row["samples_per_busiest_cpu_s"] < math.inf
    assert len(sweep.draw(found).axes) == 1


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
    true = rng.uniform(0.5, 2.0, (len(CHOICES), 5)) * (np.arange(5) != 4)
    steps = []
    for shape in range(5):
        own = Cost(*rng.uniform(1e6, 2e6, 4), 0.0)
        constant = sum(factor * 3.0 for factor in astuple(own)) / 1e6
        for at, kind in enumerate(CHOICES):
            for number in range(2):
                work = rng.uniform(1e5, 9e5, 5)
                step_ms = constant + float(work @ true[at]) / 1e6
                factors: dict[CostKind, Cost] = {kind: Cost(*work), "every_rank": own}
                steps.append(Step(str(shape), f"{kind} {number}", [step_ms], factors))
    costs, errors, _ = fit_costs(steps)
    assert errors["p90"] < 1e-6
    for at, kind in enumerate(CHOICES):
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


def test_serve(run: Run, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    for name, augment in (("a", True), ("b", False)):
        export(write_run(tmp_path / f"run-{name}", data, augment=augment), tmp_path / name)
    found = rows(run("serve", *SMOKE, "--export", tmp_path / "a", "--other", tmp_path / "b"))
    by_name = {row["measured"]: row for row in found}
    assert by_name.keys() >= {"open", "reloads", "restart", "python"}
    assert not by_name["open"]["wrong"]
    assert not by_name["reloads"]["wrong"]
    assert by_name["reloads"]["reloads"] == 3
    assert 0 < by_name["open"]["p50_ms"] <= by_name["open"]["p99_ms"] < 10_000
    assert by_name["restart"]["seconds"] > by_name["restart"]["cpu_s"] / 2 > 0
    assert by_name["python"]["again"]["p50_ms"] > 0


def test_store(run: Run, object_store: ObjectStore, planted: Dataset) -> None:
    assert isinstance(planted.folder, Path)
    object_store.put_folder(planted.folder, "benchmark")
    where = ["--data", planted.folder, "--address", "s3://open/benchmark", "--batch-size", "256"]
    *_, line, last = run("store", *SMOKE, *where)
    (row,), ratio = rows([line]), json.loads(last)
    rates = [row[f"{name}_samples_per_s"] for name in ("disk", "store")]
    assert all(0 < rate["p10"] <= rate["p50"] <= rate["p90"] < math.inf for rate in rates)
    assert ratio == {"name": "store_over_disk", "value": row["store_over_disk"]["p50"]}


def test_export_tables(run: Run, tmp_path: Path) -> None:
    whole, half, few = rows(run("export_tables", "--smoke", "--work", tmp_path))
    assert [one["tables"]["form"] for one in (whole, half, few)] == ["float32", "float16", "int8"]
    assert half["tables"]["largest_difference"] < few["tables"]["largest_difference"] < 0.03
    for one in (whole, half, few):
        assert sum(one["bytes_of"].values()) == one["bytes"]
        # Of a hundred items all are among the first 100.
        assert one["all HR@100"] == 1
        assert one["all HR@50"] == pytest.approx(whole["all HR@50"], abs=0.05)


def test_runtimes(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="comes with dat_rec[onnx]")
    made = write_run(tmp_path / "run", write_dataset(tmp_path / "data"))
    export(made, tmp_path / "export", runtimes=["onnx"])
    found = rows(run("runtimes", "--smoke", "--export", tmp_path / "export"))
    runtimes = ["operators", "torch.export", "onnx"]
    assert [one["users"] for one in found[:2]] == [1, 8]
    for one in found[:2]:
        assert [*one["ms"]] == runtimes
        assert all(0 < ms < 1000 for ms in one["ms"].values())
    assert [one["runtime"] for one in found[2:]] == runtimes
    for one in found[2:]:
        # Of the process's own, what it holds at the end it held at the peak.
        assert 0 < one["own_mb"] + one["mapped_mb"] <= one["peak_mb"] + 1


@pytest.mark.parametrize("script", ["train_loop", "reader", "fidelity", "quality.__main__"])
@pytest.mark.parametrize("address", [("--data", "gs://bucket/x"), ("--topology=gs://bucket/x",)])
def test_an_address_in_place_of_a_path_is_refused(
    address: tuple[str, ...], script: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(script, *SMOKE, *address)
    assert stop.value.code == 2
    assert "error: gs://bucket/x: gs is no local disk" in capsys.readouterr().err
