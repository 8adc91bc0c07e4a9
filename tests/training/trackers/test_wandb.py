"""Weights & Biases, offline: the real package, and its files read back."""

import shutil
from pathlib import Path

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.runs.tracked import read_tracked
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked
from tests.training.trackers.offline_wandb import offline_files, told
from tests.training.trackers.points import FLAGS, tensorboard_points

pytest.importorskip("wandb", reason="needs the package wandb")


def test_a_run_that_is_resumed_has_every_point_once(planted: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "tracked"
    train = ("train", "--data", planted.folder, "--out", run, *FLAGS)
    train = (*train, "--log-to", "tensorboard", "wandb")
    done(forked(*train, WANDB_MODE="offline", WANDB_PROJECT="planted"))
    whole = tensorboard_points(run)
    points, (first,), options = told(run)
    assert [point[:2] for point in points] == [point[:2] for point in whole]
    assert [value for *_, value in points] == pytest.approx([value for *_, value in whole], 1e-5)
    assert (first.project, first.display_name) == ("planted", "tracked")
    assert "preset: modern" in first.tags
    assert options["optimizer.table_lr"] == 0.05
    assert options["global_batch"] == 512
    # As after a kill behind the checkpoint of step 8: the steps after it are done once more.
    (run / "train.json").unlink()
    for folder in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(folder)
    done(forked(*train, "--resume", WANDB_MODE="offline", WANDB_PROJECT="planted"))
    assert len(offline_files(run)) == 2
    again, runs, _ = told(run)
    assert again == points
    tracked = read_tracked(run, "wandb")
    assert tracked is not None
    assert {one.run_id for one in runs} == {tracked.id}


def test_a_tracker_that_fails_costs_a_run_one_line(planted: Dataset, tmp_path: Path) -> None:
    """Without a key, and nobody to ask for one."""
    train = ("train", "--data", planted.folder, "--out", tmp_path / "run", *FLAGS)
    without = {"WANDB_API_KEY": "", "WANDB_MODE": "online", "HOME": str(tmp_path)}
    ended = forked(*train, "--log-to", "wandb", **without)
    done(ended)
    line = "wandb: there is no API key: run `wandb login`, or set WANDB_MODE=offline: the run goes"
    assert ended.stderr.count(line) == 1
    assert not (tmp_path / "run" / "tensorboard").exists()
