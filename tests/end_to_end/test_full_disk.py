"""A disk that is really full: a small tmpfs. Nothing half-written stays, one line tells why."""

from pathlib import Path

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked


def test_training_leaves_no_half_checkpoint(planted: Dataset, small_disk: Path) -> None:
    run = small_disk / "run"
    flags = ("--epochs", "1", "--batch-size", "512", "--disk-patience-s", "2")
    refused = forked("train", "--data", planted.folder, "--out", run, *flags)
    assert refused.returncode == 1
    assert "could not write the checkpoint" in refused.stderr
    assert "0 MiB free" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert checkpoints(run) == []
    assert list((run / "checkpoints").iterdir()) == []


def test_preparing_leaves_nothing(small_disk: Path) -> None:
    refused = forked("prepare", "synthetic", "--out", small_disk / "data")
    assert refused.returncode == 2
    assert "No space left on device" in refused.stderr
    assert list(small_disk.iterdir()) == []


def test_exporting_leaves_nothing(planted: Dataset, small_disk: Path, tmp_path: Path) -> None:
    flags = ("--epochs", "1", "--batch-size", "512")
    done(forked("train", "--data", planted.folder, "--out", tmp_path / "run", *flags))
    refused = forked("export", "--run", tmp_path / "run", "--out", small_disk / "export")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert list(small_disk.iterdir()) == []
