"""Points in, a tracker fed from a thread of its own, so that it can neither slow nor end a run."""

import queue
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dat_rec.disk import say
from dat_rec.runs.tracked import Tracked, read_tracked, write_tracked
from dat_rec.training.trackers.tracker import Kind, Opens, Outcome

MOST_WAITING = 10_000
"""Maximum number of points that wait for a tracker."""
CLOSE_S: dict[Outcome, float] = {"finished": 30.0, "stopped": 10.0, "failed": 2.0}
"""Maximum number of seconds that the end of a run waits for a tracker."""


class Point(NamedTuple):
    """Values of one step."""

    kind: Kind
    step: int
    scalars: Mapping[str, float]


class Background:
    """Sends points to a tracker; what fails there is told in one line, and ends the tracking alone.

    What a resumed run repeats from its checkpoint on was sent before, and is not sent again. The
    step is kept before its point is sent: a kill between them loses that point.

    Args:
        name: of the tracker.
        run: the run's folder.
        opens: opens the tracker's run.
    """

    def __init__(self, name: str, run: Path, opens: Opens) -> None:
        self._name, self._run, self._opens = name, run, opens
        self._waiting: queue.Queue[Point | Outcome] = queue.Queue(MOST_WAITING)
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"{name} tracker", daemon=True)
        self._thread.start()

    def add(self, kind: Kind, step: int, scalars: Mapping[str, float]) -> None:
        """Let values of one step be sent; never waits."""
        self._put(Point(kind, step, dict(scalars)))

    def close(self, outcome: Outcome) -> None:
        """Let the rest be sent, and wait for that, but not for long."""
        self._put(outcome)
        if not self._lost.is_set():
            self._thread.join(CLOSE_S[outcome])
            if self._thread.is_alive():
                self._give_up(f"does not take the last points in {CLOSE_S[outcome]:.0f} s")

    def _put(self, what: Point | Outcome) -> None:
        if self._lost.is_set():
            return
        try:
            self._waiting.put_nowait(what)
        except queue.Full:
            self._give_up(f"is {MOST_WAITING:,} points late")

    def _give_up(self, why: str) -> None:
        if not self._lost.is_set():
            self._lost.set()
            say(f"{self._name}: {why}: the run goes on without its curves there")

    def _work(self) -> None:
        try:
            self._send()
        # Whatever it is, also SystemExit of a login that has failed: it is not worth a run.
        except BaseException as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._give_up(lines[0][:300])

    def _send(self) -> None:
        kept = read_tracked(self._run, self._name)
        tracker = self._opens(None if kept is None else kept.id)
        tracked = Tracked(tracker.run_id, {} if kept is None else kept.sent)
        write_tracked(self._run, self._name, tracked)
        while not self._lost.is_set():
            what = self._waiting.get()
            if not isinstance(what, Point):
                tracker.close(what)
                return
            if what.step > tracked.sent.get(what.kind, 0):
                tracked = replace(tracked, sent=tracked.sent | {what.kind: what.step})
                write_tracked(self._run, self._name, tracked)
                tracker.add(what.step, what.scalars)
