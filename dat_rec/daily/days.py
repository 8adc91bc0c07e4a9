"""The first and the last day in, every day between them out."""

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta

from dat_rec.errors import UserError

ISO, DIGITS = "%Y-%m-%d", "%Y%m%d"
WHOLE = re.compile(r"-?\d{1,18}")
MOST_DAYS = 100_000


def days_between(first: str, last: str) -> list[str]:
    """All days from ``first`` to ``last``, both included, as partitions are called.

    A day is a date (2026-11-01, 20261101) or an integer, alone or as its folder is called
    (day=2026-11-01). Of dates every day of the calendar counts, whether the log has it or not.

    Raises:
        UserError: one is no day, they are of two kinds, or ``last`` lies before ``first``.
    """
    for form in (ISO, DIGITS):
        begin, end = _date(first, form), _date(last, form)
        if begin is not None and end is not None:
            found = [_column(first) + day.strftime(form) for day in _dates(begin, end)]
            break
    else:
        numbers = [_value(day) for day in (first, last)]
        for option, day, value in zip(("--from", "--to"), (first, last), numbers, strict=True):
            if not WHOLE.fullmatch(value) and not _date(day, ISO):
                raise UserError(
                    f"{option} {day}: is no day: write a date, as in 2026-11-01, or an integer, "
                    "as the log's partitions are called"
                )
        if not all(map(WHOLE.fullmatch, numbers)):
            raise _different(first, last)
        start, stop = map(int, numbers)
        if stop - start >= MOST_DAYS:
            raise UserError(
                f"--from {first} --to {last}: are more than {MOST_DAYS} days: correct one of them"
            )
        found = [f"{_column(first)}{day}" for day in range(start, stop + 1)]
    if _column(first) != _column(last):
        raise _different(first, last)
    if not found:
        raise UserError(
            f"--from {first} --to {last}: the last day lies before the first: swap them"
        )
    return found


def folder_of(day: str) -> str:
    """The name of a day's folder: 2026-11-01 of day=2026-11-01."""
    return _value(day)


def _different(first: str, last: str) -> UserError:
    return UserError(f"--from {first} --to {last}: are not written alike: write both in one form")


def _column(day: str) -> str:
    column, equals, _ = day.rpartition("=")
    return column + equals


def _value(day: str) -> str:
    return day.rpartition("=")[2]


def _date(day: str, form: str) -> date | None:
    try:
        found = datetime.strptime(_value(day), form).date()
    except ValueError:
        return None
    # strptime takes 2026-1-1 too, which names another folder.
    return found if found.strftime(form) == _value(day) else None


def _dates(first: date, last: date) -> Iterator[date]:
    for number in range((last - first).days + 1):
        yield first + timedelta(days=number)
