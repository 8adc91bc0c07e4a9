"""What several sections are made of: figures with their differences, bars, legends, a section."""

from collections.abc import Sequence
from typing import Any

from dat_rec.run_report.html import Content, Html, element, joined, name
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.runs.figures import figure


def section(key: str, title: str, *content: Content) -> Html:
    """Return a section that the table of contents leads to."""
    return element("section", element("h2", title), *content, id=key)


def of_run(run: RunFacts, *content: Content, several: bool) -> Html:
    """Return what is of one run, under its name if there are several runs."""
    heading = element("h3", swatch(run.colour), name(run.label)) if several else None
    return element("div", heading, *content, class_="run")


def grid(parts: Sequence[Html], kind: str = "grid") -> Html:
    """Return parts side by side, as many as go into the page's width."""
    return element("div", *parts, class_=kind)


def chart(title: Content, drawn: Html, *below: Content) -> Html:
    """Return a chart with its title, and what stands below."""
    return element("figure", element("figcaption", title), drawn, *below)


def swatch(colour: int | None, *, square: bool = False) -> Html:
    """Return a small patch of a colour; None: of what is not told apart."""
    kind = "other" if colour is None else f"{colour}"
    return element(
        "span", class_=f"swatch f{kind}" + (" square" if square else ""), aria_hidden="true"
    )


def legend(entries: Sequence[tuple[int | None, Content]], *, shapes: bool = False) -> Html:
    """Return what colours stand for.

    Args:
        entries: colours and texts.
        shapes: whether colours from 4 on have squares, as on a plane.
    """
    items = joined(
        element(
            "li", swatch(colour, square=shapes and colour is not None and colour >= 4), " ", text
        )
        for colour, text in entries
    )
    return element("ul", items, class_="legend")


def bar(share: float | None) -> Html | None:
    """Return a bar as long as a share of its cell; None without one."""
    if share is None:
        return None
    width = f"width:{100 * min(1.0, max(0.0, share)):.1f}%"
    return element("span", element("span", style=width), class_="bar", aria_hidden="true")


def difference(value: float | None, first: float | None, form: str) -> str:
    """Return by how much a figure is above the first run's, with its sign; "" where one lacks."""
    if value is None or first is None:
        return ""
    text = format(value - first, f"+{form}")
    return text.replace("-", "\N{MINUS SIGN}") if float(text.replace(",", "")) else "±0"


def side_by_side(label: Content, values: Sequence[float | None], form: str) -> list[Content]:
    """Return a table's row: a figure of each run, behind it its difference from the first's."""
    row: list[Content] = [label, figure(values[0], form)]
    for value in values[1:]:
        row += [figure(value, form), difference(value, values[0], form)]
    return row


def head_of(runs: Sequence[RunFacts], first: str) -> list[Content]:
    """Return the names of the columns of ``side_by_side``."""
    head: list[Content] = [first, name(runs[0].label)]
    for run in runs[1:]:
        head += [name(run.label), "difference"]
    return head


def block_of(metrics: dict[str, Any] | None, path: Sequence[str]) -> dict[str, Any] | None:
    """Return a block of metrics.json, or None where it has none."""
    found: Any = metrics
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def value_of(metrics: dict[str, Any] | None, path: Sequence[str]) -> float | None:
    """Return a figure of metrics.json, or None where there is none."""
    value = (block_of(metrics, path[:-1]) or {}).get(path[-1])
    return float(value) if isinstance(value, int | float) else None


def percent(share: float | None) -> str:
    """Return a share in percent."""
    return "-" if share is None else f"{100 * share:.1f} %"
