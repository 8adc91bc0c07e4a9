"""What a rank leaves in the run's folder, which may hang."""

import threading
import time

import pytest

from dat_rec.dist import failure_report
from dat_rec.dist.failure_report import FailureReporter
from dat_rec.errors import Failure


def test_a_folder_that_hangs_does_not_keep_a_rank_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failure_report, "DISK_TIMEOUT_S", 0.2)
    hangs = threading.Event()

    def hang(*_: object) -> str:
        hangs.wait(30)
        return "late"

    reporter = FailureReporter(hang, advice=hang)
    begin = time.monotonic()
    assert reporter.report(Failure("lost", 0, "the store does not answer")) == ""
    assert reporter.how_to_go_on() == "start it again"
    assert time.monotonic() - begin < 5
    hangs.set()
