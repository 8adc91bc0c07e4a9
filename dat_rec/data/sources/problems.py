"""What may be wrong with a row in, SQL of the columns ``problem`` and ``value`` out (source.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

from dat_rec.data.source import quoted


@dataclass(frozen=True)
class Problem:
    """One thing that may be wrong with a row."""

    test: str
    """SQL that is true for a bad row."""
    kind: str
    """What it is, e.g. ``missing label``."""
    shown: str
    """SQL of the value that shows it."""


def kind_sql(problems: Sequence[Problem]) -> str:
    """SQL: the kind of the first problem that a row has; NULL for a good row."""
    cases = "".join(f" WHEN {p.test} THEN {quoted(p.kind)}" for p in problems)
    return f"CASE{cases} END" if cases else "NULL::VARCHAR"


def value_sql(problems: Sequence[Problem], other: str = "NULL") -> str:
    """SQL: the value of that problem as text; that of ``other`` for a row without one."""
    cases = "".join(f" WHEN {p.test} THEN ({p.shown})::VARCHAR" for p in problems)
    return f"CASE{cases} ELSE ({other})::VARCHAR END" if cases else f"({other})::VARCHAR"
