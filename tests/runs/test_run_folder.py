"""A run's folder: what a start takes for its own, and what for somebody else's."""

import fcntl
import gc
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dat_rec.checkpoint.find import FoundCheckpoint, newest_whole
from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.example_order import ORDER_VERSION
from dat_rec.dist.process_group import process_group
from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.option_marks import to_json
from dat_rec.runs.run_folder import open_run
from dat_rec.runs.status import status
from dat_rec.runs.writes import begin, earlier_summary
from tests.distributed.ranks import run_ranks


@pytest.mark.parametrize(
    ("batch_size", "resume", "expected"), [(512, True, 2048), (256, True, 256), (512, False, 512)]
)
def test_a_run_without_a_checkpoint_keeps_its_global_batch_on_other_ranks(
    batch_size: int, resume: bool, expected: int, planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = replace(preset("modern", planted.folder, out), batch_size=512)
    with process_group(60) as context:
        four = replace(context, world_size=4)
        begin(open_run(config, planted, four), [], 1)
        gc.collect()  # and with it the lock
        again = replace(config, batch_size=batch_size, resume=resume, overwrite=not resume)
        assert open_run(again, planted, context).global_batch == expected


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
    config = replace(preset("modern", planted.folder, tmp_path), overwrite=True)
    write_json(tmp_path / "config.json", to_json(config) | {"launch": before, "global_batch": 8})
    with process_group(60) as context:
        run = open_run(config, planted, replace(context, launchers=now))
        assert (run.restarted, run.resume) == (resumes, resumes)


def test_a_folder_with_anything_else_is_not_touched(planted: Dataset, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    with process_group(60) as context, pytest.raises(UserError, match="is there and is no run"):
        open_run(preset("modern", planted.folder, tmp_path), planted, context)


def write_config(dataset: Dataset, run: Path, global_batch: int) -> None:
    """Make a folder of checkpoints a run."""
    facts = {
        "global_batch": global_batch,
        "row_digest": dataset.row_digest(),
        "order": ORDER_VERSION,
    }
    write_json(run / "config.json", to_json(preset("modern", dataset.folder, run)) | facts)
    dataset.schema.save(run)


def looks(dataset: Dataset, folders: Path) -> tuple[Any, ...]:
    """What each rank takes for the state of the run, of which it sees a folder of its own."""
    with process_group(60) as context:
        out = folders / str(context.rank)
        config = replace(preset("modern", dataset.folder, out), resume=True)
        run = open_run(config, dataset, context)
        return run.global_batch, earlier_summary(run), newest_whole(out)


def test_all_ranks_take_the_folder_for_what_the_first_one_sees(
    planted: Dataset, tmp_path: Path
) -> None:
    """Of a folder on a network file system another host may see an older state."""
    first, second = tmp_path / "0", tmp_path / "1"
    checkpoint = first / "checkpoints" / "step-00000005"
    for folder in (checkpoint, second / "checkpoints" / "step-00000003"):
        folder.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    (checkpoint / "sha256.json").write_text(json.dumps({"checkpoint.json": digest}))
    write_config(planted, first, global_batch=77)
    (first / "train.json").write_text('{"steps": 5}')
    found = run_ranks(looks, 2, planted, tmp_path)
    assert found == [(77, {"steps": 5}, FoundCheckpoint(5, checkpoint))] * 2


def crash(dataset: Dataset, out: Path, *, begun: bool, error: Exception) -> None:
    with process_group(60) as context:
        run = open_run(preset("modern", dataset.folder, out), dataset, context)
        if begun:
            begin(run, [], 1)
        raise error


@pytest.mark.parametrize("begun", [False, True])
def test_a_crash_is_recorded_also_before_the_run_has_begun_and_does_not_bar_the_next_start(
    begun: bool, planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(IndexError):
        crash(planted, out, begun=begun, error=IndexError("list index out of range"))
    found = json.loads((out / "failure.json").read_text())
    assert found["reason"] == "IndexError: list index out of range"
    # There is nothing to resume.
    wanted = "the same command with --overwrite" if begun else "the same command"
    assert found["command"] == wanted
    told = status(out)
    assert (told.state, told.failure, told.command) == ("failed", found, wanted)
    gc.collect()  # and with the frames of the crash the lock
    with process_group(60) as context:
        config = replace(preset("modern", planted.folder, out), overwrite=begun)
        begin(open_run(config, planted, context), [], 1)
    assert not (out / "failure.json").exists()


def test_what_is_refused_before_the_run_has_begun_leaves_no_trace(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match="no such table"):
        crash(planted, out, begun=False, error=UserError("--pin x: no such table"))
    assert not out.exists()


def test_a_start_that_fails_beside_another_that_trains_leaves_its_record_alone(
    planted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(IndexError):
            crash(planted, out, begun=False, error=IndexError("list index out of range"))
    assert [path.name for path in out.iterdir()] == [".lock"]
