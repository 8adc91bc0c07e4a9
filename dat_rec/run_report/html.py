"""Values in, HTML out: all text is escaped, unless it is HTML that was made here.

Texts of the data are anybody's: titles may hold ``<``, quotes, control characters, or be written
from right to left.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

LONGEST = 80
"""Maximum number of characters of a name that are shown; of a longer one, the tooltip has more."""
LONGEST_TOOLTIP = 500
NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that HTML and UTF-8 do not take."""


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


Content: TypeAlias = object
"""HTML, or what is escaped as text; None is nothing."""


def escaped(value: Content) -> Html:
    """Return HTML as it is, and the text of anything else escaped; None is nothing."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    return Html(html.escape(NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(value))))


def joined(parts: Iterable[Content]) -> Html:
    """Return the parts one after the other."""
    return Html("".join(map(escaped, parts)))


def element(tag: str, *children: Content, **attributes: Content) -> Html:
    """Return an element.

    Args:
        tag: its name.
        children: what it holds.
        attributes: by name, whose last underscore is left out and whose others are hyphens; None:
            there is none.
    """
    written = "".join(
        f' {name.removesuffix("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>{joined(children)}</{tag}>")


def name(value: Content) -> Html:
    """Return a text of the data, in its own direction, cut where it is very long."""
    text = str(value)
    if len(text) <= LONGEST:
        return element("bdi", text)
    shown, whole = text[: LONGEST - 1] + "…", text[:LONGEST_TOOLTIP]
    return element("bdi", shown, title=whole)


def code(text: str) -> Html:
    """Return a command, or another text as a machine reads it."""
    return element("code", text)


def note(*children: Content) -> Html:
    """Return a line that says how to read what stands above or below."""
    return element("p", *children, class_="note")


def missing(what: str, *commands: str) -> Html:
    """Return the line that says what is not there, and what commands give it."""
    parts: list[Content] = [what]
    for place, command in enumerate(commands):
        parts += [", then " if place else ": ", code(command)]
    return element("p", *parts, class_="missing")


def table(
    caption: str, head: Sequence[Content], rows: Iterable[Sequence[Content]], *, texts: int = 1
) -> Html:
    """Return a table that scrolls by itself where it is wider than the page.

    Args:
        caption: says what it shows.
        head: names of the columns.
        rows: cells; the first of each is the row's name.
        texts: number of columns, from the first, that are no numbers.
    """

    def cells(tag: str, row: Sequence[Content], **attributes: Content) -> Html:
        return joined(
            element(tag, cell, class_="number" if place >= texts else None, **attributes)
            for place, cell in enumerate(row)
        )

    body = joined(
        element("tr", element("th", row[0], scope="row"), cells_of(row, texts)) for row in rows
    )
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", cells("th", head, scope="col"))),
            element("tbody", body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def cells_of(row: Sequence[Content], texts: int) -> Html:
    """Return a row's cells but for the first."""
    return joined(
        element("td", cell, class_="number" if place >= texts else None)
        for place, cell in enumerate(row)
        if place
    )


def details(summary: str, *children: Content, is_open: bool = False) -> Html:
    """Return what is shown when its summary is chosen."""
    return element(
        "details", element("summary", summary), *children, open="open" if is_open else None
    )
