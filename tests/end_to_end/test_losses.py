"""Runs with other losses than the preset's, and with what a loss learns: its curve, its resume."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from dat_rec.model.products import has_onednn
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.trained import Trained, load_model
from dat_rec.training.quickest_products import processor
from tests.checkpoint.saved import saved_digests, saved_tensors
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked
from tests.retrieval.whole import encode_items, encode_users

FLAGS = ("--epochs", "2", "--batch-size", "512", "--checkpoint-every", "10")
LEARNS = (
    *("--loss.learn-temperature", "--loss.temperature", "0.07", "--loss.queue", "3"),
    *("--optimizer.tower-lr", "0.01", "--optimizer.warmup-steps", "0"),
)
THETA = "towers/objective.temperature.log_inverse"


@pytest.fixture(scope="module")
def run(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("losses") / "run"
    done(forked("train", "--data", planted.folder, "--out", out, *FLAGS, *LEARNS))
    return out


def newest(run: Path) -> Path:
    return checkpoints(run)[-1][1]


def test_a_learned_temperature_is_a_curve_a_figure_and_in_the_checkpoint(run: Path) -> None:
    saved = saved_tensors(newest(run))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    curve = [event.value for event in events.Scalars("temperature")]
    last = math.exp(-saved[THETA].item())
    assert curve[-1] == pytest.approx(last, rel=1e-6)
    moved = max(abs(math.log(value / 0.07)) for value in curve)
    assert moved > 0.005, "it must have moved to show anything"
    summary = json.loads((run / "train.json").read_text())
    assert summary["temperature"] == pytest.approx(last, rel=1e-6)
    assert f"{THETA.replace('towers', 'adam')}/exp_avg_sq" in saved
    assert done(forked("evaluate", "--run", run))


def test_a_resumed_run_ends_with_the_same_bits(run: Path, planted: Dataset, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(newest(again))
    (again / "train.json").unlink()
    train = ("train", "--data", planted.folder, "--out", again, *FLAGS, *LEARNS, "--resume")
    resumed = forked(*train)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    assert saved_digests(newest(again)) == saved_digests(newest(run))


@pytest.mark.skipif(not has_onednn(), reason="this build of PyTorch has no oneDNN")
def test_a_resumed_run_multiplies_by_the_library_that_it_began_with(
    planted: Dataset, tmp_path: Path
) -> None:
    """Also where another host, or a lost cache, would choose the other one."""
    cache = tmp_path / "dat_rec" / "products.json"
    cache.parent.mkdir()
    key = f"{processor()}, torch {torch.__version__}"
    newest_of = {}
    for library in ("mkl", "onednn"):
        cache.write_text(json.dumps({key: library}))
        out = tmp_path / library
        train = ("train", "--data", planted.folder, "--out", out, *FLAGS)
        done(forked(*train, XDG_CACHE_HOME=str(tmp_path)))
        assert f"of the towers by {library}" in (out / "start.txt").read_text()
        newest_of[library] = saved_digests(newest(out))
    assert newest_of["mkl"] != newest_of["onednn"]
    again = tmp_path / "mkl"
    shutil.rmtree(newest(again))
    (again / "train.json").unlink()
    train = ("train", "--data", planted.folder, "--out", again, *FLAGS, "--resume")
    assert "resumed after step" in forked(*train, XDG_CACHE_HOME=str(tmp_path)).stderr
    assert saved_digests(newest(again)) == newest_of["mkl"]


@pytest.mark.parametrize("learned_before", [True, False])
def test_a_run_begun_from_another_goes_on_with_its_temperature_if_it_has_one(
    learned_before: bool, run: Path, planted: Dataset, tmp_path: Path
) -> None:
    before = run
    if not learned_before:
        before = tmp_path / "before"
        done(forked("train", "--data", planted.folder, "--out", before, *FLAGS))
    out = tmp_path / "next"
    # A rate of 0 leaves it where it begins.
    still = ("--optimizer.tower-lr", "0", "--warm-start", before)
    done(forked("train", "--data", planted.folder, "--out", out, *FLAGS, *LEARNS, *still))
    begun = saved_tensors(newest(out))[THETA].item()
    expected = saved_tensors(newest(before))[THETA].item() if learned_before else -math.log(0.07)
    assert begun == pytest.approx(expected, rel=1e-6)


UNIFORM = ("--loss.no-in-batch", "--loss.shared-negatives", "200")


def hits(trained: Trained, k: int) -> tuple[float, float]:
    """Share of the test whose item is among the ``k`` best: of the model, and by popularity."""
    protocol = Protocol.read(trained.dataset)
    user_QD = encode_users(trained.model, trained.dataset, protocol.user_row)
    score_QN = user_QD @ encode_items(trained.model, trained.dataset).T
    shares = []
    for scores in (score_QN, np.broadcast_to(protocol.train_count, score_QN.shape)):
        own = np.take_along_axis(scores, protocol.item_index[:, None], axis=1)
        shares.append(float(((scores > own).sum(axis=1) < k).mean()))
    return shares[0], shares[1]


@pytest.mark.parametrize(
    "flags",
    [
        ("--loss.main", "bpr", "--epochs", "6"),
        ("--loss.main", "contrastive", *UNIFORM, "--model.residual", "--epochs", "20"),
    ],
)
def test_other_losses_learn_the_planted_world(
    flags: tuple[str, ...], planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    more = ("--batch-size", "512", "--optimizer.warmup-steps", "0")
    done(forked("train", "--data", planted.folder, "--out", out, *more, *flags))
    ours, popular = hits(load_model(out), 50)
    assert ours > 1.2 * popular, (ours, popular)
