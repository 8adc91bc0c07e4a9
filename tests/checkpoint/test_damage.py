"""What a disk's errors say of a checkpoint: damaged, or not to be read at the moment.

Where a test has the disk fail, the real function runs before or after it.
"""

import errno
import os
from pathlib import Path

import pytest

from dat_rec.checkpoint import damage, find
from dat_rec.checkpoint.find import newest_whole
from dat_rec.data.dataset import Dataset
from dat_rec.dist.process_group import process_group
from dat_rec.errors import DiskError, UserError
from tests.checkpoint.written import PASSING, write
from tests.distributed.moves import newest


def unreadable(
    monkeypatch: pytest.MonkeyPatch, number: int, times: float, step: str = "00000020"
) -> None:
    """Let the disk refuse so many reads of one checkpoint."""
    real, asked = damage.sha256, []

    def read(path: Path) -> str:
        asked.append(path)
        if step in path.parent.name and len(asked) <= times:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(damage, "sha256", read)


@pytest.mark.parametrize("number", PASSING)
def test_a_read_that_fails_for_a_while_damages_no_checkpoint(
    number: int, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    unreadable(monkeypatch, number, 2)
    assert newest(tmp_path).step == 20


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT])
def test_a_checkpoint_that_stays_unreadable_or_is_removed_meanwhile_is_passed_over(
    number: int, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    monkeypatch.setattr(damage, "READ_S", 0.1)
    unreadable(monkeypatch, number, float("inf"))
    assert newest(tmp_path).step == 10


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
    monkeypatch.setattr(damage, "READ_S", 0.1)
    unreadable(monkeypatch, number, float("inf"))
    with pytest.raises(DiskError, match=rf"step-00000020: rank 0 cannot read it{tried} \("):
        newest_whole(tmp_path)


def test_digests_that_cannot_be_read_are_no_damage_and_missing_ones_are(
    planted: Dataset, tmp_path: Path
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    digests = tmp_path / "checkpoints" / "step-00000020" / "sha256.json"
    digests.unlink()
    digests.symlink_to(digests.name)  # which the system refuses to look up
    with pytest.raises(DiskError, match="cannot read it"):
        newest_whole(tmp_path)
    digests.unlink()
    assert newest(tmp_path).step == 10


def test_only_damage_that_was_seen_in_every_checkpoint_asks_for_a_new_run(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0), (20, 1.0)])
    (tmp_path / "checkpoints" / "step-00000010" / "checkpoint.json").write_bytes(b"rubbish")
    monkeypatch.setattr(damage, "READ_S", 0.1)
    with monkeypatch.context() as away:
        unreadable(away, errno.EIO, float("inf"))
        with pytest.raises(DiskError, match="not all are surely damaged") as caught:
            newest_whole(tmp_path)
    assert "--overwrite" not in str(caught.value)
    (tmp_path / "checkpoints" / "step-00000020" / "checkpoint.json").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="every checkpoint is damaged: train anew, with --overw"):
        newest_whole(tmp_path)


def test_a_disk_that_does_not_list_the_checkpoints_is_asked_again_and_ends_no_run(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(planted, tmp_path, 2, 0, [(10, 1.0)])
    monkeypatch.setattr(damage, "READ_S", 1.0)
    real, asked = find.checkpoints, []
    times = 1.0

    def listed(run: Path) -> list[tuple[int, Path]]:
        asked.append(run)
        if len(asked) <= times:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(run))
        return real(run)

    monkeypatch.setattr(find, "checkpoints", listed)
    assert newest(tmp_path).step == 10
    times = float("inf")
    with process_group(60), pytest.raises(DiskError, match=r"checkpoints: rank 0 cannot read it"):
        newest_whole(tmp_path)
