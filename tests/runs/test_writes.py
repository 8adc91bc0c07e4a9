"""What a start writes in its run's folder, where an earlier one was killed, or the disk is full."""

import errno
import fcntl
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dat_rec.checkpoint.find import FoundCheckpoint, newest_whole
from dat_rec.checkpoint.listing import checkpoints
from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.errors import DiskError, SharedError, UserError
from dat_rec.files import sha256, write_json
from dat_rec.runs import writes
from dat_rec.runs.run_folder import open_run
from dat_rec.runs.writes import begin, finish
from tests.runs.test_run_folder import write_config

FIRST_WRITTEN = ["schema.json", "rows", "plan.json", "plan.txt", "config.json"]


@pytest.mark.parametrize("written", range(len(FIRST_WRITTEN)))
def test_a_start_killed_before_its_configuration_does_not_bar_the_next(
    written: int, planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with process_group(60) as context:
        run = open_run(preset("modern", planted.folder, out), planted, context)
        begin(run, [], 1)
        assert sorted(path.name for path in out.iterdir()) == sorted(
            [".lock", ".writer", *FIRST_WRITTEN]
        )
        # As kill -9 leaves it: one file or folder half-written, no later one.
        half = FIRST_WRITTEN[written]
        (out / half).rename(out / (half + ".partial"))
        for name in FIRST_WRITTEN[written + 1 :]:
            (out / name).rename(tmp_path / name)
        del run  # and with it the lock
        begin(open_run(preset("modern", planted.folder, out), planted, context), [], 1)
        assert (out / "config.json").exists()


def test_a_second_process_cannot_train_in_the_folder(planted: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("w") as lock, process_group(60) as context:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = open_run(preset("modern", planted.folder, out), planted, context)
        with pytest.raises(UserError, match="another process trains here"):
            begin(run, [], 1)
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("resume", "times", "error", "words"),
    [
        (True, 1, None, ""),
        # An exit code after which a scheduler starts the job again.
        (True, 1000, DiskError, "tried for 1 s: free the disk or mend the folder, then start it"),
        (False, 1, SharedError, "cannot be written (No space left on device): choose another"),
    ],
)
def test_a_run_to_go_on_with_waits_for_a_full_disk_and_a_new_one_is_refused(
    resume: bool,
    times: int,
    error: type[Exception] | None,
    words: str,
    planted: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, real, calls = tmp_path / "run", writes.write_json, []

    def full(path: Path, value: Any) -> None:
        calls.append(path)
        if len(calls) <= times:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, value)

    monkeypatch.setattr(writes, "write_json", full)
    config = replace(preset("modern", planted.folder, out), resume=resume, disk_patience_s=1)
    with process_group(60) as context:
        run = open_run(config, planted, context)
        if error is None:
            begin(run, [], 1)
        else:
            with pytest.raises(error, match=re.escape(words)) as caught:
                begin(run, [], 1)
            assert type(caught.value) is error
    assert (out / "config.json").exists() == (error is None)


def test_the_summary_of_a_run_that_has_ended_waits_for_a_full_disk(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "run", writes.write_json, []

    def full(path: Path, value: Any) -> None:
        calls.append(path)
        if path.name == "train.json" and len(calls) < 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, value)

    monkeypatch.setattr(writes, "write_json", full)
    with process_group(60) as context:
        run = open_run(preset("modern", planted.folder, out), planted, context)
        begin(run, [], 1)
        finish(run, {"steps": 1})
    assert json.loads((out / "train.json").read_text()) == {"steps": 1}
    assert len(calls) == 6


def test_what_an_earlier_start_removes_meanwhile_does_not_end_this_one(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    left = out / "checkpoints" / "step-00000010.theirs.partial"
    left.parent.mkdir(parents=True)
    left.touch()  # what can be removed as a folder no more
    write_config(planted, out, global_batch=4)
    config = replace(preset("modern", planted.folder, out), resume=True)
    with process_group(60) as context:
        begin(open_run(config, planted, context), [], 1)
    assert json.loads((out / "config.json").read_text())["steps"] == 1


def test_a_start_that_is_refused_sets_no_checkpoint_aside(planted: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    older, damaged, later = (out / "checkpoints" / f"step-0000000{step}" for step in (1, 2, 3))
    for folder in (older, damaged):
        folder.mkdir(parents=True)
        write_json(folder / "checkpoint.json", {})
        write_json(folder / "sha256.json", {"checkpoint.json": sha256(folder / "checkpoint.json")})
    (damaged / "checkpoint.json").write_text("rubbish")
    write_config(planted, out, global_batch=4)
    config = replace(preset("modern", planted.folder, out), resume=True)
    with process_group(60) as context:
        found = newest_whole(out)
        assert found == FoundCheckpoint(1, older, (damaged,))
        later.mkdir()  # by a start that lives
        with (out / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another process trains here"):
                begin(open_run(config, planted, context), [], 1, found.damaged)
        assert [step for step, _ in checkpoints(out)] == [1, 2, 3]
        begin(open_run(config, planted, context), [], 1, found.damaged)
    assert [step for step, _ in checkpoints(out)] == [1, 3]
    assert damaged.with_name(damaged.name + ".damaged").is_dir()
