"""The threads that load windows: in order, ahead by as much as is allowed, and heard when slow."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dat_rec.data.columns import Column
from dat_rec.data.stream import window_loader
from dat_rec.data.stream.example_order import Span, Window
from dat_rec.data.stream.examples import Examples, Parts
from dat_rec.data.stream.row_groups import RowGroup
from dat_rec.data.stream.window_loader import Loaded, WindowLoader

SIZE = 10
"""Rows of a row group."""


def windows(rows: list[int]) -> Iterator[Window]:
    """One lane's windows of so many rows; its row groups follow one another."""
    first, total = 0, sum(rows)
    for number, size in enumerate(rows):
        spans = []
        for group in range(first // SIZE, -(-(first + size) // SIZE)):
            begin, end = group * SIZE, min((group + 1) * SIZE, total)
            span = Span(RowGroup(Path("part"), group, SIZE), 0, end - begin)
            spans.append((span, max(first - begin, 0), min(first + size, end) - begin))
        yield Window(first, 0, 0, number, first, size, tuple(spans))
        first += size


def read(span: Span, _: Window) -> Examples:
    """Rows whose item is their number in the file."""
    numbers = span.group.number * SIZE + np.arange(span.start, span.stop)
    return Examples({"item": Column(numbers, None)}, numbers)


def joined(_: Window, parts: Parts) -> Examples:
    return Examples.join(parts)


def loading(
    rows: list[int], decode: Callable[[Span, Window], Examples] = read, ahead: int = 25
) -> WindowLoader:
    return WindowLoader(windows(rows), decode, joined, ahead, "rank 7")


def take(loader: WindowLoader, number: int) -> list[Loaded]:
    return [loader.take() for _ in range(number)]


class Counted:
    """``read``, and the row groups that it was asked for."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    def __call__(self, span: Span, window: Window) -> Examples:
        self.groups.append(span.group.number)
        return read(span, window)


def test_windows_come_in_order_and_a_row_group_is_decoded_once() -> None:
    rows = [3, 25, 1, 1, 30, 20, 7]
    counted = Counted()
    with closing(loading(rows, counted)) as loader:
        loaded = take(loader, len(rows))
    assert [one.window.rows for one in loaded] == rows
    assert np.concatenate([one.examples.item_index for one in loaded]).tolist() == [*range(87)]
    assert sorted(counted.groups) == [*range(9)]


def test_threads_run_ahead_by_so_much_and_no_more() -> None:
    counted = Counted()
    with closing(loading([10] * 20, counted, ahead=25)) as loader:
        for taken in range(4):
            deadline = time.monotonic() + 10
            # Two windows that fit, and as many row groups as there are threads.
            while len(counted.groups) < taken + 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
            assert len(counted.groups) == taken + 5
            loader.take()


def test_a_window_larger_than_all_that_may_lie_ahead_is_loaded_all_the_same() -> None:
    with closing(loading([100, 100], ahead=5)) as loader:
        assert [one.window.rows for one in take(loader, 2)] == [100, 100]


def test_whoever_waits_long_says_for_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(window_loader, "SAY_S", 0.2)
    slow = threading.Event()

    def decode(span: Span, window: Window) -> Examples:
        if span.group.number == 1:
            slow.wait()
        return read(span, window)

    with closing(loading([10, 10], decode)) as loader:
        loader.take()
        threading.Timer(0.6, slow.set).start()
        loader.take()
    waited, done = capsys.readouterr().err.splitlines()
    assert waited == "rank 7 has waited 0 s for examples: reading part (row group 1)"
    assert done == "rank 7 goes on after 1 s without examples"


def test_an_error_is_raised_where_its_window_is_waited_for() -> None:
    def decode(span: Span, window: Window) -> Examples:
        if span.group.number == 2:
            raise OSError("the disk is gone")
        return read(span, window)

    with closing(loading([10] * 9, decode)) as loader:
        take(loader, 2)
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                loader.take()


def test_threads_end_and_one_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    loader = loading([10] * 9)
    loader.take()
    loader.close()
    assert threading.active_count() == before
    # In the midst of a window of many row groups.
    begun = threading.Event()

    def slowly(span: Span, window: Window) -> Examples:
        begun.set()
        time.sleep(0.01)
        return read(span, window)

    loader = loading([2_000], slowly)
    begun.wait()
    begin = time.monotonic()
    loader.close()
    assert time.monotonic() - begin < window_loader.STOP_S / 2
    assert threading.active_count() == before
    monkeypatch.setattr(window_loader, "STOP_S", 0.1)
    hang = threading.Event()

    def decode(span: Span, window: Window) -> Examples:
        hang.wait()
        return read(span, window)

    loader = loading([10] * 9, decode)
    begin = time.monotonic()
    loader.close()
    assert time.monotonic() - begin < 5
    hang.set()
