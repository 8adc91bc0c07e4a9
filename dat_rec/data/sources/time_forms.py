"""The forms in which people write times in text, and how DuckDB reads each as microseconds.

SQL in, SQL out: a form has a pattern that the whole text fits, and SQL of microseconds since 1970.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dat_rec.data.source import quoted

_ZONE = r"( ?(Z|[+-]\d{2}(:?\d{2})?)|( [+-]\d{4})? [A-Za-z][\w/+-]*)?"
DAY = r"(19|20|21)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
_CLOCK = r"\d{2}:\d{2}:\d{2}"
_OFFSET = r"([+-]\d{4}|UTC|GMT)"


@dataclass(frozen=True)
class Form:
    """One way to write a time."""

    pattern: str
    """RE2: what the whole text looks like."""
    micros: Callable[[str], str]
    """SQL of a trimmed text → SQL of microseconds; NULL where it is no time after all."""


def iso_micros(text: str) -> str:
    """The date with hyphens, a point before the fraction, an offset without its space or name."""
    text = rf"regexp_replace({text}, '^(\d{{4}})[/.](\d{{1,2}})[/.](\d{{1,2}})', '\1-\2-\3')"
    text = rf"regexp_replace({text}, '(:\d{{2}}),(\d)', '\1.\2')"
    text = rf"regexp_replace({text}, ' ([+-]\d{{2}}:?\d{{2}})( [A-Z]+)?$', '\1')"
    # Java's ZonedDateTime names the zone of its offset in brackets.
    text = rf"regexp_replace({text}, '(Z|[+-]\d{{2}}:?\d{{2}})\[[\w/+-]+\]$', '\1')"
    return f"try(epoch_us(try_cast({text} AS TIMESTAMPTZ)))"


def _basic_micros(text: str) -> str:
    groups = r"^(\d{4})(\d{2})(\d{2})[T ]?(\d{2})(\d{2})"
    text = rf"regexp_replace({text}, '{groups}(\d{{2}})', '\1-\2-\3 \4:\5:\6')"
    return iso_micros(rf"regexp_replace({text}, '{groups}', '\1-\2-\3 \4:\5')")


def strptime_micros(time_format: str) -> Callable[[str], str]:
    """SQL of a text → SQL of microseconds, by a format in strptime's codes."""
    return lambda text: f"try(epoch_us(try_strptime({text}, {quoted(time_format)})))"


def _dated_micros(time_format: str) -> Callable[[str], str]:
    """As ``strptime_micros``, with UTC and GMT for +0000, since DuckDB's %z knows offsets alone."""
    read = strptime_micros(time_format)
    return lambda text: read(f"regexp_replace({text}, ' (UTC|GMT)', ' +0000')")


def units_micros(number: str, in_one: float) -> str:
    """SQL: an exact number of units of so many microseconds, cut to whole ones."""
    exact = f"try_cast({number} AS DECIMAL(38, 9))"
    if in_one < 1:
        return f"try({exact}::BIGINT // {round(1 / in_one)})"
    return f"try(floor({exact} * {in_one:.0f})::BIGINT)"


UNITS = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (1e20, 1e-3))
"""(below, microseconds): numbers below the first, up to the year 5138, are seconds, and so on."""
FORMS = {
    "iso": Form(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].+)?", iso_micros),
    "basic": Form(rf"{DAY}[T ]?([01]\d|2[0-4])[0-5]\d([0-6]\d([.,]\d+)?)?{_ZONE}", _basic_micros),
    "day": Form(DAY, strptime_micros("%Y%m%d")),
    "twitter": Form(
        rf"[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} +\d{{1,2}} {_CLOCK} {_OFFSET} \d{{4}}",
        _dated_micros("%a %b %d %H:%M:%S %z %Y"),
    ),
    "ctime": Form(
        rf"[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} +\d{{1,2}} {_CLOCK} \d{{4}}",
        strptime_micros("%a %b %d %H:%M:%S %Y"),
    ),
    "mail": Form(
        rf"[A-Z][a-z]{{2}}, \d{{1,2}} [A-Z][a-z]{{2}} \d{{4}} {_CLOCK} {_OFFSET}",
        _dated_micros("%a, %d %b %Y %H:%M:%S %z"),
    ),
    "apache": Form(
        rf"\d{{1,2}}/[A-Z][a-z]{{2}}/\d{{4}}:{_CLOCK} {_OFFSET}",
        _dated_micros("%d/%b/%Y:%H:%M:%S %z"),
    ),
    "amazon": Form(r"\d{1,2} \d{1,2}, \d{4}", strptime_micros("%m %d, %Y")),
    "seconds": Form(r"[+-]?\d{1,11}(\.\d*)?", lambda text: units_micros(text, 1e6)),
    "milliseconds": Form(r"[+-]?\d{12,14}(\.\d*)?", lambda text: units_micros(text, 1e3)),
    "microseconds": Form(r"[+-]?\d{15,17}(\.\d*)?", lambda text: units_micros(text, 1)),
    "nanoseconds": Form(r"[+-]?\d{18,19}", lambda text: units_micros(text, 1e-3)),
}
"""The forms of times in text; the first that fits counts: a compact day is no number of seconds."""
EPOCH = frozenset(("seconds", "milliseconds", "microseconds", "nanoseconds"))
