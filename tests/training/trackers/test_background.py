"""A tracker's thread: what is sent twice, what fails, and what hangs costs a run nothing."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from dat_rec.errors import UserError
from dat_rec.runs.tracked import read_tracked
from dat_rec.training.trackers import background
from dat_rec.training.trackers.background import Background
from dat_rec.training.trackers.tracker import Outcome, check_trackers


class Kept:
    """A tracker in memory, which does with the n-th point what it is told to."""

    run_id = "7"

    def __init__(self, fails_at: int = -1, hangs: threading.Event | None = None) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.outcome: Outcome | None = None
        self.opened: list[str | None] = []
        self._fails_at, self._hangs = fails_at, hangs

    def __call__(self, run_id: str | None) -> "Kept":
        self.opened.append(run_id)
        return self

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        if len(self.points) == self._fails_at:
            raise SystemExit("no more\nroom")
        if self._hangs is not None:
            self._hangs.wait(30)
        self.points.append((step, dict(scalars)))

    def close(self, outcome: Outcome) -> None:
        self.outcome = outcome


def test_a_point_is_sent_once_and_both_kinds_of_a_step_are(tmp_path: Path) -> None:
    tracker = Kept()
    for first, last in ((1, 3), (2, 5)):
        sender = Background("kept", tmp_path, tracker)
        for step in range(first, last + 1):
            sender.add("training", step, {"loss": step})
            if step == 3:
                sender.add("validation", step, {"HR": 0.5})
        sender.close("finished")
    expected = [(1, {"loss": 1}), (2, {"loss": 2}), (3, {"loss": 3}), (3, {"HR": 0.5})]
    assert tracker.points == [*expected, (4, {"loss": 4}), (5, {"loss": 5})]
    assert tracker.opened == [None, "7"]
    assert tracker.outcome == "finished"
    kept = read_tracked(tmp_path, "kept")
    assert kept is not None
    assert (kept.id, kept.sent) == ("7", {"training": 5, "validation": 3})


def test_what_fails_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Kept(fails_at=1)
    sender = Background("kept", tmp_path, tracker)
    for step in (1, 2, 3):
        sender.add("training", step, {"loss": step})
    sender.close("finished")
    assert tracker.points == [(1, {"loss": 1})]
    told = capsys.readouterr().err
    assert told == "kept: no more: the run goes on without its curves there\n"


def test_what_hangs_is_waited_for_but_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(background.CLOSE_S, "finished", 0.2)
    monkeypatch.setattr(background, "MOST_WAITING", 4)
    end = threading.Event()
    sender = Background("kept", tmp_path, Kept(hangs=end))
    begin = time.monotonic()
    for step in range(1, 4):
        sender.add("training", step, {"loss": step})
    sender.close("finished")
    assert time.monotonic() - begin < 10
    late = Background("late", tmp_path, Kept(hangs=end))
    for step in range(1, 20):
        late.add("training", step, {"loss": step})
    late.close("finished")
    end.set()
    assert capsys.readouterr().err.splitlines() == [
        "kept: does not take the last points in 0 s: the run goes on without its curves there",
        "late: is 4 points late: the run goes on without its curves there",
    ]


def test_a_package_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["tensorboard"])
    monkeypatch.setattr("dat_rec.training.trackers.tracker.find_spec", lambda name: None)
    check_trackers(["tensorboard"])
    with pytest.raises(UserError, match=r"^--log-to mlflow: the package mlflow is not installed"):
        check_trackers(["tensorboard", "mlflow"])
