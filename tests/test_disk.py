"""How long a disk's refusals are borne."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from dat_rec import disk
from dat_rec.disk import Patience, keep_trying


def test_work_that_only_takes_long_spends_no_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FIRST_WAIT_S", 0.01)
    tries = []

    def slow() -> str:
        tries.append(time.sleep(0.5))
        if len(tries) < 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return "written"

    assert keep_trying(slow, Patience(0.3), "rank 0", tmp_path) == "written"


def test_patience_ends_so_long_after_the_first_refusal() -> None:
    patience = Patience(0.2)
    begin = time.monotonic()
    while patience.wait(0.05):
        pass
    assert 0.15 < time.monotonic() - begin < 5


@pytest.mark.parametrize(("seconds", "goes_on"), [(0.0, False), (60.0, True)])
def test_who_waits_hears_at_once_that_the_patience_has_changed(
    seconds: float, goes_on: bool
) -> None:
    patience = Patience()
    threading.Timer(0.1, lambda: patience.end_after(seconds)).start()
    begin = time.monotonic()
    assert patience.wait(30) == goes_on
    assert time.monotonic() - begin < 10


def test_without_patience_one_refusal_is_the_end() -> None:
    patience = Patience()
    patience.end_after(0)
    assert not patience.wait(1)
