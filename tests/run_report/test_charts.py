"""Where charts put their points, by hand."""

import math
import re

import pytest

from dat_rec.run_report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    SQUARE,
    TOP,
    WIDTH,
    Group,
    Line,
    curves,
    plane,
    short,
)
from tests.run_report.parsed import Parsed

INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    """The points of the path of a class."""
    (path,) = re.findall(rf'd="([^"]+)" class="{kind}"', svg)
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", path.replace("h0", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize("log", [False, True])
def test_points_stand_between_the_bounds_and_bad_ones_nowhere(log: bool) -> None:
    values = [1.0, math.nan, 100.0, math.inf] if log else [0.0, math.nan, 2.0, math.inf]
    points = list(zip([10.0, 15.0, 20.0, 30.0], values, strict=True))
    found = places(curves("c", [Line("c", points, 0)], log_y=log), "curve s0")
    # 5 % of the distance stand free above and below.
    low, high = HEIGHT - BOTTOM - INNER_HEIGHT * 0.05 / 1.1, TOP + INNER_HEIGHT * 0.05 / 1.1
    assert found == [
        (LEFT, pytest.approx(low, abs=0.06)),
        (LEFT + INNER_WIDTH, pytest.approx(high, abs=0.06)),
    ]


def test_ticks_are_round() -> None:
    texts = Parsed(curves("c", [Line("c", [(0, 0.013), (354, 0.987)], 0)])).texts
    assert texts == ["0", "0.5", "1", "0", "100", "200", "300"]
    texts = Parsed(curves("c", [Line("c", [(0, 1e-6), (1, 1e-2)], 0)], log_y=True)).texts
    assert texts == ["1e-6", "1e-4", "1e-2", "0", "0.25", "0.5", "0.75", "1"]


def test_a_single_point_and_equal_ones_are_drawn_and_none_is_said() -> None:
    assert len(places(curves("c", [Line("c", [(5, 1.0)], 3)]), "dots s3")) == 1
    assert "s1" in curves("c", [Line("c", [(5, 1.0), (6, 1.0)], 1)])
    assert "No finite value" in curves("c", [Line("c", [(1, math.nan)], 0)])
    assert "No finite value" in curves("c", [])


def test_a_plane_keeps_the_scale_of_both_axes() -> None:
    svg = plane("p", [Group([(0, 0), (4, 0), (0, 2)], 5), Group([(2, 1)], None)], [(4, 0, "7")])
    a, b, c = places(svg, "dots s5 square")
    half = SQUARE / 2 - 16
    assert a == (16, SQUARE / 2 + half / 2)
    assert b == (SQUARE - 16, a[1])
    assert c == (16, SQUARE / 2 - half / 2)
    assert places(svg, "dots sother") == [(SQUARE / 2, SQUARE / 2)]
    assert Parsed(svg).texts == ["7"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.025, "0.025"), (1234, "1,234"), (12_300, "12.3k"), (3.2e6, "3.2M")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
