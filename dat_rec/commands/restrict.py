"""Options of what lists may hold: words in, quotas out; and what is said of the lists."""

from collections.abc import Sequence

from dat_rec.errors import UserError
from dat_rec.storage.address import Location

SEVERAL = ("--quota", "--items")
"""Options that take several values."""


def quotas(words: Sequence[str]) -> dict[str, int]:
    """Read ``COLUMN=N`` of each word.

    Raises:
        UserError: a word is none, or a column stands twice.
    """
    found: dict[str, int] = {}
    for word in words:
        column, _, number = word.rpartition("=")
        if not column or not number.isdecimal():
            raise UserError(f"--quota {word}: write COLUMN=N, as category=10")
        if column in found:
            raise UserError(f"--quota {word}: {column} stands there twice: leave one out")
        found[column] = int(number)
    return found


def said(unknown_allowed: int, allow: Location | None, fewer: int, who: str, k: int) -> list[str]:
    """What a user must know of lists that were restricted, in lines."""
    lines = []
    if unknown_allowed:
        lines.append(f"{allow}: the export does not know {unknown_allowed:,} of these items")
    if fewer:
        lines.append(f"{fewer:,} {who} have fewer than {k} items: no more may be shown")
    return lines
