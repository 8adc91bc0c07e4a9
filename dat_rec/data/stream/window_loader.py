"""Windows in, their examples in memory out, loaded in threads ahead of those who take them.

One thread goes through the windows in the order in which they are needed, while others decode
their row groups, and a few beyond. Each row group that a lane has is decoded once, though its rows
may lie in several windows.
"""

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from dat_rec.data.stream.example_order import Span, Window
from dat_rec.data.stream.examples import Examples
from dat_rec.data.stream.row_groups import RowGroup

DECODERS = 2
"""Threads that decode, and maximum number of row groups that are decoded beyond a window."""
SAY_S = 5.0
"""Seconds after which whoever waits for a window is told what it is waiting for."""
STOP_S = 10.0
"""Maximum seconds to wait for the end of threads, which may hang in a file system."""


@dataclass(frozen=True)
class Loaded:
    """A window in memory."""

    window: Window
    examples: Examples
    """Its rows, in the order in which they are taken."""


@dataclass(frozen=True)
class _Part:
    """What a window has of a row group."""

    window: Window
    group: RowGroup
    examples: Future[Examples]
    """What its lane has of the row group."""
    start: int
    """The first of these examples that lies in the window."""
    stop: int
    """The one after the last that does."""
    is_last: bool
    """Whether the window has no more parts."""


class WindowLoader:
    """Loads windows ahead, in threads that ``close`` ends.

    Args:
        windows: in the order in which they are needed.
        decode: reads the rows of a span, of the window's lane and epoch.
        shuffle: makes a window of its parts, each with its first row and the one after its last.
        ahead: maximum number of rows in windows that nobody has taken; one window may always be
            loaded.
        name: of the rank, for messages.
    """

    def __init__(
        self,
        windows: Iterator[Window],
        decode: Callable[[Span, Window], Examples],
        shuffle: Callable[[Window, list[tuple[Examples, int, int]]], Examples],
        ahead: int,
        name: str = "rank 0",
    ) -> None:
        self._windows, self._decode, self._shuffle = windows, decode, shuffle
        self._ahead, self._name = ahead, name
        self._work: queue.SimpleQueue[tuple[Future[Examples], Span, Window] | None]
        self._work = queue.SimpleQueue()
        self._unfinished: dict[tuple[int, int, Span], Future[Examples]] = {}
        self._loaded: deque[Loaded | BaseException] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._reading = "nothing yet"
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._load_all, *[self._decode_all] * DECODERS)
        ]
        for thread in self._threads:
            thread.start()

    def take(self) -> Loaded:
        """The next window, of which there must be one; says for what it waits if that is long.

        Raises:
            BaseException: what a thread raised.
        """
        begin, said = time.monotonic(), False
        with self._changed:
            while not self._loaded:
                self._changed.wait(SAY_S)
                if not self._loaded and not said and time.monotonic() > begin + SAY_S:
                    said = True
                    self._say(f"has waited {SAY_S:.0f} s for examples: reading {self._reading}")
            if said:
                self._say(f"goes on after {time.monotonic() - begin:.0f} s without examples")
            found = self._loaded[0]
            if isinstance(found, BaseException):
                raise found
            self._loaded.popleft()
            self._rows -= found.window.rows
            self._changed.notify_all()
            return found

    def close(self) -> None:
        """End the threads; those that hang in a file system are left behind."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for _ in range(DECODERS):
            self._work.put(None)
        end = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _say(self, what: str) -> None:
        print(f"{self._name} {what}", file=sys.stderr, flush=True)

    def _decode_all(self) -> None:
        while (work := self._work.get()) is not None:
            future, span, window = work
            try:
                future.set_result(self._decode(span, window))
            except BaseException as error:
                future.set_exception(error)

    def _load_all(self) -> None:
        try:
            parts: list[tuple[Examples, int, int]] = []
            for part in self._parts():
                if not parts and not self._wait_for_room(part.window.rows):
                    return
                self._reading = str(part.group)
                parts.append((part.examples.result(), part.start, part.stop))
                if part.is_last:
                    self._put(Loaded(part.window, self._shuffle(part.window, parts)))
                    parts = []
        except BaseException as error:
            self._put(error)

    def _parts(self) -> Iterator[_Part]:
        """All windows' parts in order; a few more are being decoded."""
        begun: deque[_Part] = deque()
        for window in self._windows:
            for number, (span, start, stop) in enumerate(window.spans, 1):
                key = (window.lane, window.epoch, span)
                examples = self._unfinished.pop(key, None) or self._begin(span, window)
                if stop < span.stop - span.start:
                    self._unfinished[key] = examples
                last = number == len(window.spans)
                begun.append(_Part(window, span.group, examples, start, stop, last))
                if len(begun) > DECODERS:
                    yield begun.popleft()
        yield from begun

    def _begin(self, span: Span, window: Window) -> Future[Examples]:
        future: Future[Examples] = Future()
        with self._changed:
            # Behind the end of the decoders, nobody would ever decode it.
            if self._stopped:
                future.cancel()
            else:
                self._work.put((future, span, window))
        return future

    def _put(self, loaded: Loaded | BaseException) -> None:
        with self._changed:
            self._loaded.append(loaded)
            if isinstance(loaded, Loaded):
                self._rows += loaded.window.rows
            self._changed.notify_all()

    def _wait_for_room(self, rows: int) -> bool:
        """Wait until ``rows`` more may be loaded; return whether to go on."""
        with self._changed:
            while not self._stopped and self._loaded and self._rows + rows > self._ahead:
                self._changed.wait()
            return not self._stopped
