"""A run's folder: what it takes for its own, and what for somebody else's."""

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.parallel.process_group import process_group
from dat_rec.train.run_folder import RunFolder

FIRST_WRITTEN = ["schema.json", "rows", "plan.json", "plan.txt", "config.json"]


@pytest.mark.parametrize("written", range(len(FIRST_WRITTEN)))
def test_a_start_killed_before_its_configuration_does_not_bar_the_next(
    written: int, planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with process_group(60) as place:
        folder = RunFolder(preset("modern", planted.folder, out), planted, place)
        folder.begin([], 1)
        assert sorted(path.name for path in out.iterdir()) == sorted(
            [".lock", ".writer", *FIRST_WRITTEN]
        )
        # As kill -9 leaves it: one file or folder half-written, no later one.
        half = FIRST_WRITTEN[written]
        (out / half).rename(out / (half + ".partial"))
        for name in FIRST_WRITTEN[written + 1 :]:
            (out / name).rename(tmp_path / name)
        del folder  # and with it the lock
        folder = RunFolder(preset("modern", planted.folder, out), planted, place)
        folder.check()
        folder.begin([], 1)
        assert (out / "config.json").exists()


def test_a_second_process_cannot_train_in_the_folder(planted: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("w") as lock, process_group(60) as place:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = RunFolder(preset("modern", planted.folder, out), planted, place)
        folder.check()
        with pytest.raises(UserError, match="another process trains here"):
            folder.begin([], 1)
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("before", "now", "resumes"),
    [
        (["a:1:10"], ("a:1:10",), True),
        (["a:1:10", "b:1:10"], ("b:1:10", "c:9:99"), True),  # a host was lost, another came
        (["a:1:10"], ("a:1:11",), False),  # another process by the same number
        (["a:1:10"], (), False),
        ([], (), False),
        ("a:1:10", ("a:1:10",), False),
    ],
)
def test_only_the_torchrun_that_began_a_run_resumes_it_unasked(
    before: object, now: tuple[str, ...], resumes: bool, planted: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"launch": before}))
    config = replace(preset("modern", planted.folder, tmp_path), overwrite=True)
    with process_group(60) as place:
        folder = RunFolder(config, planted, replace(place, launchers=now))
        assert folder.resume == resumes


def test_a_folder_with_anything_else_is_not_touched(planted: Dataset, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    with process_group(60) as place:
        folder = RunFolder(preset("modern", planted.folder, tmp_path), planted, place)
        with pytest.raises(UserError, match="is there and is no run"):
            folder.check()
