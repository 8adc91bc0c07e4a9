"""The lock of a run's folder: kept over a disk's refusals, and looked at where there is none."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from dat_rec.errors import UserError
from dat_rec.runs import fence
from dat_rec.runs.fence import Fence, is_locked


def test_the_lock_stays_where_the_disk_refuses_the_token_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    ours = Fence(tmp_path, "ours", (), "go")
    with monkeypatch.context() as refused:
        refused.setattr(fence, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            ours.take(restarted=False)
    ours.take(restarted=False)
    assert is_locked(tmp_path)
    with pytest.raises(UserError, match="another process trains here"):
        Fence(tmp_path, "theirs", (), "go").take(restarted=False)
    ours.check()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_shows_nobody_who_trains(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert not is_locked(tmp_path)
