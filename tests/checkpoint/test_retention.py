"""Which checkpoints stay, and what becomes of old ones that the disk does not let go."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dat_rec.checkpoint import retention
from dat_rec.checkpoint.find import chosen_whole
from dat_rec.data.dataset import Dataset
from dat_rec.errors import DiskError
from tests.checkpoint.written import saving, steps, write
from tests.distributed.moves import newest


@pytest.mark.parametrize(
    ("keep", "keep_best", "left"),
    [
        (1, 0, [50]),
        (2, 0, [40, 50]),
        (2, 1, [20, 40, 50]),
        (1, 2, [20, 30, 50]),
        (9, 9, [*range(10, 60, 10)]),
    ],
)
def test_the_newest_stay_and_those_of_the_lowest_loss(
    keep: int, keep_best: int, left: list[int], planted: Dataset, tmp_path: Path
) -> None:
    losses = [(10, 5.0), (20, 1.0), (30, 2.0), (40, 4.0), (50, 3.0)]
    write(planted, tmp_path, keep, keep_best, losses)
    assert steps(tmp_path) == left


@pytest.mark.parametrize(
    ("keep_best", "left"), [(0, [50]), (1, [20, 50]), (2, [20, 30, 50]), (3, [10, 20, 30, 50])]
)
def test_the_newest_stay_and_those_of_the_best_validation(
    keep_best: int, left: list[int], planted: Dataset, tmp_path: Path
) -> None:
    """Of equal values the first; the lowest losses are those that were not validated."""
    values = [(10, 5.0, 0.1), (20, 4.0, 0.3), (30, 3.0, 0.3), (40, 1.0, None), (50, 2.0, 0.0)]
    write(planted, tmp_path, 1, keep_best, values)
    assert steps(tmp_path) == left


def test_a_damaged_later_checkpoint_does_not_drive_out_whole_ones(
    planted: Dataset, tmp_path: Path
) -> None:
    damaged = tmp_path / "checkpoints" / "step-00000030" / "checkpoint.json"
    # The run went on from step 10, for that of step 30 was damaged.
    write(planted, tmp_path, 1, 0, [(10, 1.0), (30, 1.0), damaged, (10, 1.0), (20, 1.0)])
    assert steps(tmp_path) == [20, 30]
    assert newest(tmp_path).step == 20


def test_an_old_checkpoint_that_cannot_be_removed_costs_no_run_and_goes_with_the_next(
    planted: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network file system keeps, by another name, a file that another host has open."""
    real = shutil.rmtree

    def busy(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.endswith(".old.partial"):
            if not options.get("ignore_errors"):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
            return
        real(path, *arguments, **options)

    left = tmp_path / "checkpoints" / "step-00000010.old.partial"
    with saving(planted, tmp_path) as (writer, save):
        save(10)
        writer.finish()
        with monkeypatch.context() as held:
            held.setattr(retention.shutil, "rmtree", busy)
            save(20)
            writer.finish()
        assert capsys.readouterr().err.count("cannot be removed (Directory not empty)") == 1
        assert left.is_dir()
        assert steps(tmp_path) == [20]
        save(30)
        writer.finish()
    assert not left.exists()
    assert steps(tmp_path) == [30]


def test_a_best_checkpoint_whose_loss_the_disk_does_not_tell_stays(
    planted: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "checkpoints" / "step-00000010" / "checkpoint.json"
    with saving(planted, tmp_path, keep_best=1) as (writer, save):
        save(10)
        writer.finish()
        index.unlink()
        index.symlink_to(index.name)  # which the system refuses to look up
        save(20)
        writer.finish()
    assert steps(tmp_path) == [10, 20]
    assert "step-00000010/checkpoint.json: " in capsys.readouterr().err
    with pytest.raises(DiskError, match="cannot read it"):
        chosen_whole(tmp_path, "best")
