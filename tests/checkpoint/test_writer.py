"""Who may write checkpoints and when, and what becomes of those that cannot be written.

Where a test has the disk fail, the real function runs before or after it.
"""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dat_rec import disk
from dat_rec.checkpoint import write_job
from dat_rec.checkpoint import writer as writer_module
from dat_rec.checkpoint.writer import CheckpointWriter
from dat_rec.data.dataset import Dataset
from dat_rec.errors import DiskError, SharedError, SupersededError
from dat_rec.files import write_json
from dat_rec.runs.fence import WRITER, Fence
from tests.checkpoint.written import PASSING, Save, saving, steps
from tests.distributed.moves import newest
from tests.distributed.ranks import run_ranks


@pytest.mark.parametrize(
    ("moment", "left"),
    [("write_blocks", [10]), ("write_json", [10]), ("publish", [10, 20])],
)
def test_a_start_that_is_overtaken_while_it_writes_publishes_and_removes_nothing_more(
    moment: str, left: list[int], planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = Fence(tmp_path, "ours", (), "go")
    fence.take(restarted=False)
    with saving(planted, tmp_path, fence=fence) as (writer, save):
        save(10)
        writer.finish()
        real = getattr(write_job, moment)

        def overtaken(*arguments: Any) -> Any:
            result = real(*arguments)
            write_json(tmp_path / WRITER, {"token": "theirs", "host": "other"})
            return result

        monkeypatch.setattr(write_job, moment, overtaken)
        save(20)
        with pytest.raises(SupersededError, match="another start of this run, on other"):
            writer.finish()
    assert steps(tmp_path) == left


def writing_threads(dataset: Dataset, run: Path, memory_bytes: list[int]) -> list[str]:
    """Where each rank writes, with so much memory."""
    names = []
    real = write_job.write_blocks

    def noted(*arguments: Any) -> Any:
        names.append(threading.current_thread().name.partition("_")[0])
        return real(*arguments)

    write_job.write_blocks = noted
    try:
        memory = memory_bytes[int(os.environ.get("RANK", "0"))]
        with saving(dataset, run, memory_bytes=memory) as (writer, save):
            save(10)
            writer.finish()
    finally:
        write_job.write_blocks = real
    return names


@pytest.mark.parametrize(("memory_bytes", "name"), [(2**60, "checkpoint"), (2**20, "MainThread")])
def test_training_waits_where_there_is_no_room_for_a_copy(
    memory_bytes: int, name: str, planted: Dataset, tmp_path: Path
) -> None:
    assert writing_threads(planted, tmp_path, [memory_bytes]) == [name]
    assert steps(tmp_path) == [10]


def test_all_ranks_wait_where_one_has_no_room_for_a_copy(planted: Dataset, tmp_path: Path) -> None:
    """Otherwise the others would wait for it in their next step, which has a time-out."""
    found = run_ranks(writing_threads, 2, planted, tmp_path, [2**60, 2**20])
    assert found == [["MainThread"], ["MainThread"]]
    assert steps(tmp_path) == [10]


def save_last(writer: CheckpointWriter, save: Save) -> None:
    save(40, last=True)
    writer.finish()


def failing(monkeypatch: pytest.MonkeyPatch, number: int, times: float) -> list[Path]:
    """Let the disk refuse so many writes, half-way; gives the files that were begun."""
    begun: list[Path] = []
    real = write_job.write_blocks

    def write(path: Path, blocks: Any) -> Any:
        assert not path.exists(), "what is half-written takes the room that there is"
        begun.append(path)
        result = real(path, blocks)
        if len(begun) <= times:
            raise OSError(number, os.strerror(number), str(path))
        return result

    monkeypatch.setattr(write_job, "write_blocks", write)
    return begun


@pytest.mark.parametrize("number", PASSING)
def test_what_a_disk_refuses_for_a_while_is_tried_again_aloud(
    number: int,
    planted: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = failing(monkeypatch, number, 2)
    with saving(planted, tmp_path) as (writer, save):
        save(10)
        writer.finish()
    assert len(begun) == 3
    newest(tmp_path)
    first, second = capsys.readouterr().err.splitlines()
    assert f"step-00000010: rank 0: writing: {os.strerror(number)}; " in first
    assert first.endswith(" MiB free: trying again")
    assert "done, after " in second


@pytest.mark.parametrize("memory_bytes", [2**60, 2**20])
def test_a_checkpoint_that_cannot_be_written_costs_neither_the_run_nor_the_older_ones(
    memory_bytes: int,
    planted: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(writer_module, "WAITING_S", 0.3)
    options = {"memory_bytes": memory_bytes, "patience_s": 0.3}
    with saving(planted, tmp_path, **options) as (writer, save):
        save(10)
        writer.settle()
        with monkeypatch.context() as full:
            failing(full, errno.ENOSPC, float("inf"))
            save(20)
            writer.settle()
        assert steps(tmp_path) == [10]
        assert "given up; training goes on to the next checkpoint" in capsys.readouterr().err
        save(30)
        writer.settle()
        assert steps(tmp_path) == [30]
        failing(monkeypatch, errno.ENOSPC, float("inf"))
        with pytest.raises(DiskError, match=r"tried for 0.3 s: .* then go on with --resume"):
            save_last(writer, save)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000030"]


def test_what_no_later_try_mends_is_told_at_once(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = failing(monkeypatch, errno.EACCES, 1)
    with saving(planted, tmp_path) as (writer, save):
        save(10)
        with pytest.raises(SharedError, match="Permission denied") as caught:
            writer.finish()
    assert not isinstance(caught.value, DiskError)
    assert len(begun) == 1


@pytest.mark.parametrize("end", ["settle", "close"])
def test_what_the_disk_refuses_keeps_neither_the_next_checkpoint_nor_the_end_waiting(
    end: str, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FIRST_WAIT_S", 60.0)
    begun = failing(monkeypatch, errno.ENOSPC, float("inf"))
    with saving(planted, tmp_path) as (writer, save):
        save(10)
        while not begun:
            time.sleep(0.01)
        begin = time.monotonic()
        getattr(writer, end)()
        assert time.monotonic() - begin < 30
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_disk_that_goes_away_in_the_last_write_ends_in_its_own_error(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"

    def away(path: Path, _: Any) -> None:
        if not folder.is_symlink():
            folder.rename(tmp_path / "away")
            folder.symlink_to(folder.name)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(write_job, "write_blocks", away)
    with saving(planted, tmp_path, patience_s=0.3) as (writer, save):
        save(10, last=True)
        with pytest.raises(DiskError, match=r"Stale file handle.* then go on with --resume"):
            writer.finish()


def unseen_folder(dataset: Dataset, run: Path, times: float, patience_s: float) -> list[str]:
    """Save where the second rank's host does not show it the first one's folder so often."""
    real, asked, told = write_job.write_blocks, [], []

    def late(path: Path, blocks: Any) -> Any:
        asked.append(path)
        if os.environ["RANK"] == "1" and len(asked) <= times:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, blocks)

    write_job.write_blocks = late
    write_job.READ_S = patience_s
    try:
        with saving(dataset, run) as (writer, save):
            save(10)
            try:
                writer.finish()
            except DiskError as error:
                told.append(str(error))
    finally:
        write_job.write_blocks = real
    return told


def test_a_folder_that_another_host_sees_late_is_waited_for_and_never_seen_is_the_disks_fault(
    planted: Dataset, tmp_path: Path
) -> None:
    assert run_ranks(unseen_folder, 2, planted, tmp_path / "late", 1, 60.0) == [[], []]
    assert steps(tmp_path / "late") == [10]
    found = run_ranks(unseen_folder, 2, planted, tmp_path / "never", float("inf"), 0.3)
    for (told,) in found:
        assert "rank 1 could not write the checkpoint (No such file or directory" in told
    assert steps(tmp_path / "never") == []
