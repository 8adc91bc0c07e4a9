"""What stands in a run's folder, and what is said where the disk does not tell."""

from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import advice, checkpoints, usual_command


def loop(path: Path) -> None:
    """A name that the system cannot look up: it refuses, and does not say that nothing is there."""
    path.symlink_to(path.name)


def test_a_folder_of_checkpoints_that_is_missing_holds_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path) == []
    folder = tmp_path / "checkpoints"
    for name in ("step-00000020", "step-00000010", "step-00000010.old.partial", "00000030"):
        (folder / name).mkdir(parents=True)
    (folder / "step-00000040").touch()
    assert checkpoints(tmp_path) == [
        (10, folder / "step-00000010"),
        (20, folder / "step-00000020"),
    ]


def test_a_disk_that_does_not_tell_is_not_one_without_checkpoints(tmp_path: Path) -> None:
    loop(tmp_path / "checkpoints")
    with pytest.raises(OSError, match="symbolic links"):
        checkpoints(tmp_path)


def test_where_the_disk_does_not_tell_the_advice_is_to_resume(tmp_path: Path) -> None:
    loop(tmp_path / "checkpoints")
    (tmp_path / "config.json").touch()
    assert advice(tmp_path) == "go on with --resume"
    assert usual_command(tmp_path) == "the same command with --resume"
