"""What comes out of a run: last lines, status, chosen checkpoints, hyperparameters, comparison."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from dat_rec.data.dataset import Dataset
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked, on_ranks


@pytest.fixture(scope="module")
def run(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with three checkpoints, whose name a shell would cut; what it printed beside it."""
    folder = tmp_path_factory.mktemp("results") / "my run"
    flags = ("--batch-size", "256", "--checkpoint-every", "25", "--keep-checkpoints", "9")
    said = done(forked("train", "--data", planted.folder, "--out", folder, "--epochs", "2", *flags))
    (folder.parent / "said.txt").write_text(said)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_train_ends_with_what_came_out_and_what_to_do_next(run: Path) -> None:
    summary = read(run / "train.json")
    assert (run.parent / "said.txt").read_text() == (
        f"{run}: {summary['steps']} steps, main loss {summary['loss']['main']:.4f}, "
        f"{summary['samples_per_s']:,.0f} samples/s; next: dat-rec evaluate --run '{run}'\n"
    )


def test_two_ranks_say_it_once(planted: Dataset, tmp_path: Path) -> None:
    flags = ("--batch-size", "512", "--epochs", "1")
    said = done(on_ranks(2, "train", "--data", planted.folder, "--out", tmp_path / "run", *flags))
    assert said.count("samples/s") == said.count("next: ") == 1


def test_clocks_of_lookups_and_of_waiting_run(run: Path) -> None:
    summary = read(run / "train.json")
    assert 0.005 < summary["lookup_share"] < 1
    assert 0 < summary["data_wait_share"] < 1
    assert 0 < summary["checkpoint_share"] < 1


def test_status_shows_the_figures_of_a_run_that_has_ended(run: Path) -> None:
    summary = read(run / "train.json")
    (run / "metrics.json").unlink(missing_ok=True)
    lines = done(forked("status", "--run", run)).splitlines()
    assert lines[-1] == f"next: dat-rec evaluate --run '{run}'"
    assert f"main loss {summary['loss']['main']:.4f}" in lines[-2]
    done(forked("evaluate", "--run", run))
    lines = done(forked("status", "--run", run)).splitlines()
    metrics = read(run / "metrics.json")
    figures = metrics["all"]
    assert lines[-1] == f"next: dat-rec export --run '{run}' --out EXPORT"
    assert lines[-2].startswith(
        f"evaluated at step {summary['steps']}: all pairs HR@50 {figures['HR@50']:.4f}, "
        f"HR@100 {figures['HR@100']:.4f}, MRR {figures['MRR']:.4f}; new pairs HR@50 "
    )
    found = json.loads(done(forked("status", "--run", run, "--json")))
    assert found["training"] == summary
    assert found["metrics"]["all"]["MRR"] == figures["MRR"]
    assert found["metrics"]["checkpoint"] == summary["steps"]


def test_evaluate_and_export_take_a_checkpoint(run: Path, tmp_path: Path) -> None:
    found = {}
    for wanted in ("25", "50"):
        done(forked("evaluate", "--run", run, "--checkpoint", wanted))
        found[wanted] = read(run / "metrics.json")
        assert found[wanted]["checkpoint"] == int(wanted)
    assert found["25"]["all"] != found["50"]["all"]
    out = tmp_path / "an export"
    said = done(forked("export", "--run", run, "--out", out, "--checkpoint", "25"))
    manifest = read(out / "export.json")
    assert manifest["source"]["checkpoint"] == 25
    assert said == (
        f"{out}: {manifest['items']} items and {manifest['users']} users of {run}, step 25; next: "
        f"dat-rec recommend --export '{out}' --out RECOMMENDATIONS.parquet\n"
    )
    refused = forked("evaluate", "--run", run, "--checkpoint", "26")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no checkpoint '26': name a step that is there (25, 50, " in refused.stderr


def test_tensorboard_shows_hyperparameters_beside_the_curves(run: Path) -> None:
    done(forked("evaluate", "--run", run, "--checkpoint", "newest"))
    assert [path for path in (run / "tensorboard").iterdir() if path.is_dir()] == []
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    parts = {
        name: plugin_data_pb2.HParamsPluginData.FromString(
            events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content
        )
        for name in ("experiment", "session_start_info", "session_end_info")
    }
    options = dict(parts["session_start_info"].session_start_info.hparams)
    config, summary = read(run / "config.json"), read(run / "train.json")
    assert options["optimizer.table_lr"].number_value == config["optimizer"]["table_lr"]
    assert options["epochs"].number_value == 2
    assert options["model.hidden"].string_value == "[256, 128]"
    assert options["loss.in_batch"].string_value == "true"
    assert not {"out", "resume", "overwrite"} & options.keys()
    experiment = parts["experiment"].experiment
    assert {one.name for one in experiment.hparam_infos} == options.keys()
    assert parts["session_end_info"].session_end_info.status == 1  # STATUS_SUCCESS
    shown = {
        one.name.tag: events.Scalars(one.name.tag)
        for one in experiment.metric_infos
        if one.name.tag in events.Tags()["scalars"]
    }
    metrics = read(run / "metrics.json")
    assert shown["evaluation/all/MRR"][-1].value == pytest.approx(metrics["all"]["MRR"])
    assert shown["evaluation/new_pairs/HR@50"][-1].step == summary["steps"]
    recall = metrics["per_user"]["Recall@20"]
    assert shown["evaluation/per_user/Recall@20"][-1].value == pytest.approx(recall)
    assert {"loss/main", "samples_per_s"} <= shown.keys()


def test_compare_sets_two_runs_side_by_side(run: Path, planted: Dataset, tmp_path: Path) -> None:
    other = tmp_path / "other"
    flags = ("--batch-size", "256", "--epochs", "1", "--model.no-augment")
    flags += ("--loss.mimic-user", "0", "--loss.mimic-item", "0")
    done(forked("train", "--data", planted.folder, "--out", other, *flags))
    done(forked("evaluate", "--run", run))
    lines = done(forked("compare", run, other)).splitlines()
    rows = {line[:20].strip(): line.split()[-2:] for line in lines}
    assert rows["epochs"] == ["2", "1"]
    assert rows["model.augment"] == ["true", "false"]
    assert rows["loss mimic_user"][1] == "-"
    assert rows["all pairs MRR"] == [f"{read(run / 'metrics.json')['all']['MRR']:.4f}", "-"]
    assert lines[-1] == f"{other}: not evaluated: dat-rec evaluate --run {other}"
    found = json.loads(done(forked("compare", "--json", run, other)))
    assert found["runs"][1]["training"] == read(other / "train.json")
    refused = forked("compare", run, tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{tmp_path} is not a run" in refused.stderr
