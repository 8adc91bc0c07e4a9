"""The picture of a plan."""

from contextlib import nullcontext
from itertools import combinations
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from dat_rec.planner.picture import draw
from dat_rec.planner.plan_request import find_plan
from dat_rec.planner.report import headline
from dat_rec.planner.table_file import Table
from tests.planner.described import BIG, gpus, request


@pytest.mark.parametrize("hosts", [2, 20])
def test_the_picture_is_a_whole_png(hosts: int, tmp_path: Path) -> None:
    result = find_plan(request(BIG, gpus(hosts, memory_gb=16)))
    draw(result, headline(result), tmp_path / "plan.png")
    pixels = matplotlib.image.imread(tmp_path / "plan.png")
    assert pixels.shape[0] > 300
    assert pixels.std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]


def tick_texts(axes: Axes) -> list[Text]:
    return [*axes.get_xticklabels(), *axes.get_yticklabels()]


@pytest.mark.parametrize("hosts", [1, 20])
@pytest.mark.parametrize("length", [1, 20, 60])
def test_no_text_of_the_picture_stands_over_another(
    hosts: int, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr("dat_rec.planner.picture.whole_file", nullcontext)
    tables = [Table(f"{number}{'x' * length}", 2**24, 64) for number in range(6)]
    result = find_plan(request(tables, gpus(hosts, memory_gb=32)))
    draw(result, headline(result), tmp_path / "plan.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    # Ticks outside of an axis have texts too, which are not drawn.
    ticks = {id(text) for axes in figure.axes for text in tick_texts(axes)}
    boxes = {
        text.get_text(): text.get_window_extent()
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and id(text) not in ticks
    }
    heat = figure.axes[0]
    boxes |= {text.get_text(): text.get_window_extent() for text in tick_texts(heat)}
    assert headline(result) in boxes
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)
    whole = figure.bbox.padded(1)
    assert all(whole.contains(*box.min) and whole.contains(*box.max) for box in boxes.values())
