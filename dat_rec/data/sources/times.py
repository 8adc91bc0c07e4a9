"""A column of times in, how its values become microseconds since 1970 out.

A column has one form. Of a text it is the one that most of the first rows have, and rows of another
are bad; a text whose day and month could be either way round needs its format. Integers stay as
they are, for they are in order whatever their unit; other numbers are seconds, milliseconds,
microseconds or nanoseconds, by their size. What is finer than a microsecond is cut.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import duckdb

from dat_rec.data.source import named, quoted
from dat_rec.data.sources.ids import in_words
from dat_rec.data.sources.tables import INTEGERS, Relation
from dat_rec.data.sources.time_forms import (
    DAY,
    FORMS,
    UNITS,
    iso_micros,
    strptime_micros,
    units_micros,
)
from dat_rec.errors import UserError

LOOK_AT = 10_000
"""Number of rows of each file that decide the form of a text."""
OTHER_FORM = "time in another form"
"""Kind of a bad row whose time is not in the form that most rows have."""


@dataclass(frozen=True)
class Times:
    """How a column's times are read."""

    micros: Callable[[str], str]
    """SQL of a value → SQL: BIGINT, NULL where it is not of the column's form."""
    other: Callable[[str], str]
    """SQL of a value → SQL: whether it is a time in another form than the column's."""
    read_as: str | None = None
    """Type in DuckDB in which ``micros`` takes an option's text; none: only ISO 8601 is one."""
    integers: bool = False
    """The times are integers, as they stand in the file."""


_HOURS = rf"{DAY}([01]\d|2[0-3])"
"""Days with the hour: as seconds, all of them lie between 2030 and 2040."""
_AMBIGUOUS = r"\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([T ,].*)?"
_EITHER = re.compile(r"\d{1,2}([-/.])\d{1,2}[-/.](\d+)(.*)", re.DOTALL)
_TAIL = re.compile(r"([T ]|, ?)\d{1,2}:\d{2}(:\d{2}(\.\d{1,6})?)?(?:( ?)[AaPp][Mm])?|")
"""The clock that may follow a date, or nothing."""


def times_of(table: Relation, column: str, time_format: str | None = None) -> Times:
    """Find how to read the times of ``column``.

    Args:
        table: holds the column.
        column: the column's name.
        time_format: format of its texts, in strptime's codes; None: it is found.

    Raises:
        UserError: a type that holds no moments, a text of no known form, or one whose day and
            month could be either way round.
    """
    type_ = table.types[column]
    if time_format is not None:
        return _formatted(table, column, time_format)
    if type_ in INTEGERS:
        integers = _alike(lambda value: f"try_cast({value} AS BIGINT)")
        return replace(integers, read_as="VARCHAR", integers=True)
    if type_.startswith(("FLOAT", "DOUBLE", "DECIMAL")):
        return _numbers(table, column)
    if type_ == "TIMESTAMPTZ_NS":  # which epoch_us does not take
        return _alike(lambda value: f"try(epoch_us({value}::TIMESTAMPTZ))")
    if type_.startswith("TIMESTAMP") or type_ == "DATE":
        return _alike(lambda value: f"try(epoch_us({value}))")
    if type_ != "VARCHAR":
        raise no_moment(table.where, column, in_words(type_))
    text = f"trim({named(column)})"
    some = _looked_at(text)
    form = form_of(table.database, f"{table} WHERE {some}", text)
    if form in FORMS:
        times = _of_form(form)
        other = f"{some} AND NOT regexp_full_match({text}, {quoted(_HOURS)})"
        if form == "seconds" and not table.first(other, text):
            first = table.first(some, text)
            assert first is not None
            raise UserError(
                f"{first[0]}: {column} {first[1]!r}: all times look like days with the hour: "
                "pass --time-format '%Y%m%d%H', or write seconds since 1970 as integers"
            )
        # The form fits one text in truth, not only by its looks; or there is none.
        read = f"{some} AND {times.micros(text)} IS NOT NULL"
        if table.first(read, text) or not table.first(some, text):
            return times
    raise _unread(table, column, text, form)


def _looked_at(text: str) -> str:
    """SQL: whether a row decides the form of ``text``, which is SQL too."""
    return f"_source_row <= {LOOK_AT} AND {text} <> ''"


def _unread(table: Relation, column: str, text: str, form: str) -> UserError:
    """The error for a column whose most frequent form cannot be read: its first time, and the cure.

    Args:
        table: holds the column.
        column: the column's name.
        text: SQL of the trimmed text.
        form: what ``form_of`` has found.
    """
    pattern = FORMS[form].pattern if form in FORMS else _AMBIGUOUS
    test = f"regexp_full_match({text}, {quoted(pattern)})"
    if form not in FORMS and form != "ambiguous":
        test = f"NOT {_any_form(text)} AND NOT {test}"
    row = table.first(f"{_looked_at(text)} AND {test}", text)
    assert row is not None
    where = f"{row[0]}: {column} {row[1][:80]!r}"
    if form != "ambiguous":
        return UserError(
            f"{where}: a time in no known form: pass --time-format with strptime's codes, "
            "e.g. --time-format '%d %B %Y %H:%M'"
        )
    day_first, month_first, whole = _either(row[1])
    cure = f"pass --time-format '{day_first}' or --time-format '{month_first}'"
    if not whole:
        cure = (
            f"pass a --time-format that begins with '{day_first}' or '{month_first}' and "
            "goes on as the times do"
        )
    return UserError(f"{where}: the day or the month may come first: {cure}")


def form_of(database: duckdb.DuckDBPyConnection, relation: str, text: str) -> str:
    """The form that most of the relation's texts have: a key of the forms, ambiguous, or unknown.

    Args:
        database: holds the relation.
        relation: SQL to stand after FROM, with a WHERE.
        text: SQL of the trimmed text.
    """
    patterns = {name: form.pattern for name, form in FORMS.items()} | {"ambiguous": _AMBIGUOUS}
    cases = "".join(
        f" WHEN regexp_full_match({text}, {quoted(pattern)}) THEN {quoted(name)}"
        for name, pattern in patterns.items()
    )
    row = database.execute(
        f"SELECT CASE{cases} ELSE 'unknown' END AS form FROM {relation} AND {text} <> '' "
        "GROUP BY form ORDER BY count(*) DESC, form LIMIT 1"
    ).fetchone()
    return str(row[0]) if row else "iso"


def no_moment(where: str, column: str, kind: str) -> UserError:
    """The error for a column of another type."""
    return UserError(
        f"{where}: time {column!r} is {kind}, which names no moment: name a column of timestamps, "
        "dates, text of them, or integers in order by --time; if there is none, rename this one "
        "and pass --split last or random"
    )


def read_moment(database: duckdb.DuckDBPyConnection, times: Times, text: str) -> int | None:
    """A moment that an option names: in the column's form, or as ISO 8601 if that is no integer."""
    tries = [] if times.integers else [iso_micros(f"trim({quoted(text)})")]
    if times.read_as is not None:
        tries.insert(0, times.micros(f"try_cast({quoted(text)} AS {times.read_as})"))
    row = database.execute(f"SELECT coalesce({', '.join(tries)})").fetchone()
    return None if row is None or row[0] is None else int(row[0])


def _alike(micros: Callable[[str], str]) -> Times:
    return Times(micros, lambda _: "false")


def _of_form(name: str) -> Times:
    form = FORMS[name]

    def matches(value: str) -> str:
        return f"regexp_full_match(trim({value}), {quoted(form.pattern)})"

    return Times(
        lambda value: f"CASE WHEN {matches(value)} THEN {form.micros(f'trim({value})')} END",
        lambda value: f"coalesce(NOT {matches(value)} AND {_any_form(f'trim({value})')}, false)",
        "VARCHAR",
    )


def _any_form(text: str) -> str:
    any_of = "|".join(f"({form.pattern})" for form in FORMS.values())
    return f"regexp_full_match({text}, {quoted(any_of)})"


def _numbers(table: Relation, column: str) -> Times:
    """Seconds, milliseconds, …: what most are; numbers of another size are of another form."""
    type_ = table.types[column]
    bounds = [0.0, *(below for below, _ in UNITS)]

    def within(value: str, unit: int) -> str:
        size = f"abs({value}::DOUBLE)"
        return f"(isfinite({size}) AND {size} >= {bounds[unit]} AND {size} < {bounds[unit + 1]})"

    counts = ", ".join(f"count(*) FILTER ({within(named(column), n)})" for n in range(len(UNITS)))
    found = table.database.execute(f"SELECT {counts} FROM {table}").fetchone() or ()
    unit = max(range(len(UNITS)), key=lambda n: int(found[n]))
    in_one = UNITS[unit][1]

    def micros(value: str) -> str:
        exact = f"try(round({value} * {in_one!r}::DOUBLE)::BIGINT)"
        if type_.startswith("DECIMAL"):
            exact = units_micros(value, in_one)
        return f"CASE WHEN {within(value, unit)} THEN {exact} END"

    return Times(
        micros,
        lambda value: f"coalesce(isfinite({value}::DOUBLE) AND NOT {within(value, unit)}, false)",
        type_,
    )


def _formatted(table: Relation, column: str, time_format: str) -> Times:
    type_ = table.types[column]
    if type_ != "VARCHAR" and type_ not in INTEGERS:
        raise UserError(
            f"--time-format {time_format}: is for times in text; {table.where}: {column!r} is "
            f"{in_words(type_)}: leave the option out"
        )
    try:
        table.database.execute(f"SELECT try_strptime('', {quoted(time_format)})")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0].split(": ", 2)[-1]
        raise UserError(
            f"--time-format {time_format}: is no format ({reason}): use strptime's codes, "
            "e.g. --time-format '%d/%m/%Y %H:%M:%S'"
        ) from error
    if "%" not in time_format.replace("%%", ""):
        raise UserError(
            f"--time-format {time_format}: holds no code: use strptime's, e.g. --time-format "
            "'%d/%m/%Y %H:%M:%S'"
        )
    read = strptime_micros(time_format)
    times = _alike(lambda value: read(f"trim({value}::VARCHAR)"))
    text = f"trim({named(column)}::VARCHAR)"
    some = _looked_at(text)
    first_read = table.first(f"{some} AND {read(text)} IS NOT NULL", text)
    if not first_read and (first := table.first(some, text)):
        raise UserError(
            f"--time-format {time_format}: reads none of the first times: {first[0]}: "
            f"{column} {first[1][:80]!r}: write their format"
        )
    return replace(times, read_as="VARCHAR")


def _either(text: str) -> tuple[str, str, bool]:
    """The format of an ambiguous text, the day first and the month first; whether it is whole."""
    found = _EITHER.fullmatch(text)
    assert found is not None
    between, year, rest = found.groups()
    code = "%Y" if len(year) == 4 else "%y"
    clock, tail = _TAIL.fullmatch(rest), ""
    if clock and rest:
        before, seconds, fraction, half = clock.groups()
        tail = f"{before}{'%H' if half is None else '%I'}:%M"
        tail += (":%S" if seconds else "") + (".%f" if fraction else "")
        tail += "" if half is None else f"{half}%p"
    first, second = f"%d{between}%m{between}{code}{tail}", f"%m{between}%d{between}{code}{tail}"
    return first, second, clock is not None
