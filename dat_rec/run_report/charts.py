"""Numbers in, SVG out: curves, and points on a plane. Colours are the page's (``style.py``)."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dat_rec.run_report.html import Content, Html, element, joined

WIDTH, HEIGHT = 360, 210
"""Size of a chart of curves, in CSS pixels; a page of 390 pixels shows it at nearly that size."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
SQUARE = 480
"""Width and height of a plane."""
COLOURS = 8
"""Number of colours that the page has."""


class Line(NamedTuple):
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), x rising."""
    colour: int
    """0 … COLOURS − 1."""
    dotted: bool = False
    """Marks each point, and dashes between them."""


class Group(NamedTuple):
    """Points of one colour."""

    points: Sequence[tuple[float, float]]
    colour: int | None
    """None: that of what is not told apart."""


def curves(
    label: str, lines: Sequence[Line], *, log_y: bool = False, marks: Iterable[float] = ()
) -> Html:
    """Return a chart of curves.

    Args:
        label: says in words what it shows, for those who do not see it.
        lines: the curves, one point at least in all; points that are not finite are left out.
        log_y: draw log y; points of 0 or below are left out.
        marks: x of vertical lines.
    """
    shown = [line._replace(points=_finite(line.points, log_y=log_y)) for line in lines]
    xs, ys = ([point[axis] for line in shown for point in line.points] for axis in (0, 1))
    if not xs:
        return element("p", "No finite value.", class_="missing")
    x_low, x_high = _widened(min(xs), max(xs), 0.0)
    y_low, y_high = _widened(min(ys), max(ys), 0.05)

    def x(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts: list[Html] = []
    for value in _ticks(y_low, y_high, 4, whole=log_y):
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        text = f"1e{value:g}" if log_y else short(value)
        parts.append(_text(LEFT - 5, y(value) + 4, text, "end"))
    for value in _ticks(x_low, x_high, 4):
        at = x(value)
        parts.append(_line(at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4, "axis"))
        anchor = "end" if at > WIDTH - RIGHT - 12 else "middle"
        parts.append(_text(at, HEIGHT - 6, short(value), anchor))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts += [_line(x(at), TOP, x(at), HEIGHT - BOTTOM, "mark") for at in marks]
    for line in shown:
        places = [f"{x(at):.1f} {y(value):.1f}" for at, value in line.points]
        if len(places) == 1 or line.dotted:
            dots = "".join(f"M{place}h0" for place in places)
            parts.append(element("path", d=dots, class_=f"dots s{line.colour}"))
        if len(places) > 1:
            kind = f"curve s{line.colour}" + (" dashed" if line.dotted else "")
            parts.append(element("path", d="M" + "L".join(places), class_=kind))
    return _svg(label, WIDTH, HEIGHT, parts)


def plane(
    label: str, groups: Sequence[Group], named: Sequence[tuple[float, float, str]] = ()
) -> Html:
    """Return points on a plane, both axes of one scale.

    Args:
        label: says in words what it shows.
        groups: the points, the last ones on top; colours from 4 on have squares.
        named: x, y and a short text of points to name.
    """
    points = [point for group in groups for point in group.points]
    points += [(x, y) for x, y, _ in named]
    middle, half = zip(
        *(_middle([point[axis] for point in points]) for axis in (0, 1)), strict=True
    )
    scale = (SQUARE / 2 - 16) / (max(half) or 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return SQUARE / 2 + (x - middle[0]) * scale, SQUARE / 2 - (y - middle[1]) * scale

    parts = []
    for group in groups:
        dots = "".join("M{:.0f} {:.0f}h0".format(*place(*point)) for point in group.points)
        other = group.colour is None
        kind = "sother" if other else f"s{group.colour}"
        square = " square" if group.colour is not None and group.colour >= COLOURS // 2 else ""
        parts.append(element("path", d=dots, class_=f"dots {kind}{square}"))
    for x, y, text in named:
        at = place(x, y)
        circle = element("circle", cx=f"{at[0]:.1f}", cy=f"{at[1]:.1f}", r="9", class_="named")
        parts += [circle, _text(at[0], at[1] + 4, text, "middle")]
    return _svg(label, SQUARE, SQUARE, parts)


def short(value: float) -> str:
    """Return a number in few characters, as in ``12k`` or ``0.05``."""
    size = abs(value)
    for unit, of in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= of * 10 or (size >= of and unit != "k"):
            return f"{value / of:.3g}{unit}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def _finite(points: Sequence[tuple[float, float]], *, log_y: bool) -> list[tuple[float, float]]:
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [(x, math.log10(y)) for x, y in kept if y > 0] if log_y else kept


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """Return bounds that are apart, and a share of their distance further apart."""
    if high <= low:
        size = abs(low) * 0.05 or 0.5
        return low - size, high + size
    return low - share * (high - low), high + share * (high - low)


def _ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Return at most so many round numbers within bounds, and one more."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * of for of in (1, 2, 2.5, 5, 10) if power * of >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Return the middle of values, and how far the farthest is from it."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    return (low + high) / 2, (high - low) / 2


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return element("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", class_=kind)


def _text(x: float, y: float, text: Content, anchor: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _svg(label: str, width: int, height: int, parts: Iterable[Html]) -> Html:
    return element(
        "svg", joined(parts), viewBox=f"0 0 {width} {height}", role="img", aria_label=label
    )
