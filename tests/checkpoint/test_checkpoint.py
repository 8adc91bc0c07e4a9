"""Which checkpoints stay, who may write them and when, and what becomes of those that cannot be.

Where a test has the disk fail, the real function runs before or after it.
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dat_rec import disk
from dat_rec.checkpoint import checkpoint
from dat_rec.checkpoint.checkpoint import CheckpointWriter, checkpoints, chosen_whole, newest_whole
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.errors import DiskError, SharedError, SupersededError, UserError
from dat_rec.files import write_json
from dat_rec.runs.fence import WRITER, Fence
from tests.distributed.exactness import Case
from tests.distributed.moves import build
from tests.distributed.ranks import run_ranks


def write(dataset: Dataset, run: Path, keep: int, keep_best: int, saves: list[Any]) -> None:
    """Save at the given (step, loss); a path among them is a file to damage."""
    with process_group(60) as context:
        model, optimizer = build(dataset, Case("two-tower"), context)
        writer = CheckpointWriter(run, context, keep, keep_best)
        for save in saves:
            if isinstance(save, Path):
                writer.finish()
                save.write_bytes(b"rubbish")
            else:
                writer.save(save[0], model, optimizer, {"loss": save[1]})
        writer.finish()
        writer.close()


def steps(run: Path) -> list[int]:
    return [step for step, _ in checkpoints(run)]


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


def test_a_damaged_later_checkpoint_does_not_drive_out_whole_ones(
    planted: Dataset, tmp_path: Path
) -> None:
    damaged = tmp_path / "checkpoints" / "step-00000030" / "checkpoint.json"
    # The run went on from step 10, for that of step 30 was damaged.
    write(planted, tmp_path, 1, 0, [(10, 1.0), (30, 1.0), damaged, (10, 1.0), (20, 1.0)])
    assert steps(tmp_path) == [20, 30]
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
    assert found[0] == 20


Save = Callable[..., None]


@contextmanager
def saving(dataset: Dataset, run: Path, **options: Any) -> Iterator[tuple[CheckpointWriter, Save]]:
    """A writer, and how to save a step by it."""
    memory = options.pop("memory_bytes", 2**60)
    with process_group(60) as context:
        model, optimizer = build(dataset, Case("two-tower"), context)
        context = replace(context, memory_bytes=memory)
        writer = CheckpointWriter(run, context, **{"keep": 1} | options)

        def save(step: int, **more: Any) -> None:
            writer.save(step, model, optimizer, {"loss": 1.0}, **more)

        yield writer, save
        writer.close()


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
        real = getattr(checkpoint, moment)

        def overtaken(*arguments: Any) -> Any:
            result = real(*arguments)
            write_json(tmp_path / WRITER, {"token": "theirs", "host": "other"})
            return result

        monkeypatch.setattr(checkpoint, moment, overtaken)
        save(20)
        with pytest.raises(SupersededError, match="another start of this run, on other"):
            writer.finish()
    assert steps(tmp_path) == left


def writing_threads(dataset: Dataset, run: Path, memory_bytes: list[int]) -> list[str]:
    """Where each rank writes, with so much memory."""
    names = []
    real = checkpoint.write_blocks

    def noted(*arguments: Any) -> Any:
        names.append(threading.current_thread().name.partition("_")[0])
        return real(*arguments)

    checkpoint.write_blocks = noted
    try:
        memory = memory_bytes[int(os.environ.get("RANK", "0"))]
        with saving(dataset, run, memory_bytes=memory) as (writer, save):
            save(10)
            writer.finish()
    finally:
        checkpoint.write_blocks = real
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
    real = checkpoint.write_blocks

    def write(path: Path, blocks: Any) -> Any:
        assert not path.exists(), "what is half-written takes the room that there is"
        begun.append(path)
        result = real(path, blocks)
        if len(begun) <= times:
            raise OSError(number, os.strerror(number), str(path))
        return result

    monkeypatch.setattr(checkpoint, "write_blocks", write)
    return begun


AWAY = (errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH)
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, *AWAY)


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
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
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
    monkeypatch.setattr(checkpoint, "WAITING_S", 0.3)
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


def unreadable(
    monkeypatch: pytest.MonkeyPatch, number: int, times: float, step: str = "00000020"
) -> None:
    """Let the disk refuse so many reads of one checkpoint."""
    real, asked = checkpoint.sha256, []

    def read(path: Path) -> str:
        asked.append(path)
        if step in path.parent.name and len(asked) <= times:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(checkpoint, "sha256", read)


@pytest.mark.parametrize("number", PASSING)
def test_a_read_that_fails_for_a_while_damages_no_checkpoint(
    number: int, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    unreadable(monkeypatch, number, 2)
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
    assert found[0] == 20


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT])
def test_a_checkpoint_that_stays_unreadable_or_is_removed_meanwhile_is_passed_over(
    number: int, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    monkeypatch.setattr(checkpoint, "READ_S", 0.1)
    unreadable(monkeypatch, number, float("inf"))
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
    assert found[0] == 10


@pytest.mark.parametrize(
    ("number", "tried"),
    [
        (errno.ESTALE, r", tried for 0\.1 s"),
        (errno.ETIMEDOUT, r", tried for 0\.1 s"),
        (errno.EACCES, ""),
        (errno.EMFILE, ""),
    ],
)
def test_a_checkpoint_that_is_not_read_for_another_reason_is_not_a_damaged_one(
    number: int, tried: str, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    monkeypatch.setattr(checkpoint, "READ_S", 0.1)
    unreadable(monkeypatch, number, float("inf"))
    with pytest.raises(DiskError, match=rf"step-00000020: rank 0 cannot read it{tried} \("):
        newest_whole(tmp_path, alone=True)


def test_digests_that_cannot_be_read_are_no_damage_and_missing_ones_are(
    planted: Dataset, tmp_path: Path
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    digests = tmp_path / "checkpoints" / "step-00000020" / "sha256.json"
    digests.unlink()
    digests.symlink_to(digests.name)  # which the system refuses to look up
    with pytest.raises(DiskError, match="cannot read it"):
        newest_whole(tmp_path, alone=True)
    digests.unlink()
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
    assert found[0] == 10


def test_only_damage_that_was_seen_in_every_checkpoint_asks_for_a_new_run(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    (tmp_path / "checkpoints" / "step-00000010" / "checkpoint.json").write_bytes(b"rubbish")
    monkeypatch.setattr(checkpoint, "READ_S", 0.1)
    with monkeypatch.context() as away:
        unreadable(away, errno.EIO, float("inf"))
        with pytest.raises(DiskError, match="not all are surely damaged") as caught:
            newest_whole(tmp_path, alone=True)
    assert "--overwrite" not in str(caught.value)
    (tmp_path / "checkpoints" / "step-00000020" / "checkpoint.json").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="every checkpoint is damaged: train anew, with --overw"):
        newest_whole(tmp_path, alone=True)


def test_a_disk_that_does_not_list_the_checkpoints_is_asked_again_and_ends_no_run(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0)])
    monkeypatch.setattr(checkpoint, "READ_S", 1.0)
    real, asked = checkpoint.checkpoints, []
    times = 1.0

    def listed(run: Path) -> list[tuple[int, Path]]:
        asked.append(run)
        if len(asked) <= times:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(run))
        return real(run)

    monkeypatch.setattr(checkpoint, "checkpoints", listed)
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
    assert found[0] == 10
    times = float("inf")
    with process_group(60), pytest.raises(DiskError, match=r"checkpoints: rank 0 cannot read it"):
        newest_whole(tmp_path)


def test_a_disk_that_goes_away_in_the_last_write_ends_in_its_own_error(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"

    def away(path: Path, _: Any) -> None:
        if not folder.is_symlink():
            folder.rename(tmp_path / "away")
            folder.symlink_to(folder.name)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(checkpoint, "write_blocks", away)
    with saving(planted, tmp_path, patience_s=0.3) as (writer, save):
        save(10, last=True)
        with pytest.raises(DiskError, match=r"Stale file handle.* then go on with --resume"):
            writer.finish()


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
            held.setattr(checkpoint.shutil, "rmtree", busy)
            save(20)
            writer.finish()
        assert capsys.readouterr().err.count("cannot be removed (Directory not empty)") == 1
        assert left.is_dir()
        assert steps(tmp_path) == [20]
        save(30)
        writer.finish()
    assert not left.exists()
    assert steps(tmp_path) == [30]


def unseen_folder(dataset: Dataset, run: Path, times: float, patience_s: float) -> list[str]:
    """Save where the second rank's host does not show it the first one's folder so often."""
    real, asked, told = checkpoint.write_blocks, [], []

    def late(path: Path, blocks: Any) -> Any:
        asked.append(path)
        if os.environ["RANK"] == "1" and len(asked) <= times:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path, blocks)

    checkpoint.write_blocks = late
    checkpoint.READ_S = patience_s
    try:
        with saving(dataset, run) as (writer, save):
            save(10)
            try:
                writer.finish()
            except DiskError as error:
                told.append(str(error))
    finally:
        checkpoint.write_blocks = real
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
