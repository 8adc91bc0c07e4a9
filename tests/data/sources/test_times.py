"""Times as people write them: the same moments in every form, or one line that names the cure."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import Prepared, refused

ROWS = 40
# In no form's alphabetical order: from December to the year after.
MOMENTS = [datetime(2025, 12, 28, tzinfo=UTC) + timedelta(hours=9 * row) for row in range(ROWS)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=1))


def micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def seconds(time: datetime) -> int:
    return micros(time) // 1_000_000


def day(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0)


def log(folder: Path, times: Any, **more: Any) -> Path:
    users = [row % 4 for row in range(ROWS)]
    items = [row % 5 for row in range(ROWS)]
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "time": times, **more}),
        folder / "log.parquet",
    )
    return folder / "log.parquet"


def options(folder: Path, **changes: Any) -> ParquetLog:
    values = {"out": folder / "out", "interactions": folder / "log.parquet", "test_share": 0.2}
    return ParquetLog(**{**values, **changes})


def times_of(made: Prepared) -> list[int]:
    return [time for part in ("train", "test") for _, _, time in made.triples(part)]


def kept(to: timedelta) -> Callable[[datetime], int]:
    """The moment as far as the form tells it."""
    return lambda time: (
        micros(time) // (to // timedelta(microseconds=1)) * (to // timedelta(microseconds=1))
    )


SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
FORMS: dict[str, tuple[Callable[[datetime], Any], timedelta]] = {
    "a space": (lambda t: f"{t:%Y-%m-%d %H:%M:%S}", SECOND),
    "a T": (lambda t: f"{t:%Y-%m-%dT%H:%M:%S}", SECOND),
    "minutes": (lambda t: f"{t:%Y-%m-%d %H:%M}", MINUTE),
    "Z": (lambda t: f"{t:%Y-%m-%dT%H:%M:%S}Z", SECOND),
    "UTC": (lambda t: f"{t:%Y-%m-%d %H:%M:%S} UTC", SECOND),
    "UTC with microseconds": (lambda t: f"{t:%Y-%m-%d %H:%M:%S.%f} UTC", SECOND),
    "nanoseconds": (lambda t: f"{t:%Y-%m-%dT%H:%M:%S}.000000999Z", SECOND),
    "python's log": (lambda t: f"{t:%Y-%m-%d %H:%M:%S},000", SECOND),
    "offset": (lambda t: t.astimezone(BERLIN).isoformat(), SECOND),
    "offset without colon": (lambda t: f"{t.astimezone(BERLIN):%Y-%m-%d %H:%M:%S%z}", SECOND),
    "offset after a space": (lambda t: f"{t.astimezone(BERLIN):%Y-%m-%d %H:%M:%S %z}", SECOND),
    "go": (lambda t: f"{t:%Y-%m-%d %H:%M:%S} +0000 UTC", SECOND),
    "zone's name": (lambda t: f"{t.astimezone(BERLIN):%Y-%m-%d %H:%M:%S} Europe/Berlin", SECOND),
    "python's str": (str, SECOND),
    "spaces around": (lambda t: f" {t:%Y-%m-%d %H:%M:%S} ", SECOND),
    "slashes": (lambda t: f"{t:%Y/%m/%d %H:%M:%S}", SECOND),
    "java's ZonedDateTime": (
        lambda t: f"{t.astimezone(BERLIN).isoformat()}[Europe/Berlin]",
        SECOND,
    ),
    "java's ZonedDateTime in UTC": (lambda t: f"{t:%Y-%m-%dT%H:%M}Z[UTC]", MINUTE),
    "points, year first": (lambda t: f"{t:%Y.%m.%d %H:%M:%S}", SECOND),
    "a day": (lambda t: f"{t:%Y-%m-%d}", DAY),
    "a compact day": (lambda t: f"{t:%Y%m%d}", DAY),
    "basic": (lambda t: f"{t:%Y%m%dT%H%M%S}Z", SECOND),
    "basic with offset": (lambda t: f"{t.astimezone(BERLIN):%Y%m%dT%H%M%S%z}", SECOND),
    "basic without seconds": (lambda t: f"{t:%Y%m%dT%H%M}Z", MINUTE),
    "basic with an offset and no seconds": (
        lambda t: f"{t.astimezone(BERLIN):%Y%m%d %H%M%z}",
        MINUTE,
    ),
    "twelve digits": (lambda t: f"{t:%Y%m%d%H%M}", MINUTE),
    "fourteen digits": (lambda t: f"{t:%Y%m%d%H%M%S}", SECOND),
    "twitter": (lambda t: f"{t:%a %b %d %H:%M:%S} +0000 {t:%Y}", SECOND),
    "ctime": (lambda t: t.ctime(), SECOND),
    "java's Date": (lambda t: f"{t:%a %b %d %H:%M:%S} UTC {t:%Y}", SECOND),
    "mail": (lambda t: f"{t:%a, %d %b %Y %H:%M:%S} GMT", SECOND),
    "apache": (lambda t: f"{t.astimezone(BERLIN):%d/%b/%Y:%H:%M:%S %z}", SECOND),
    "amazon": (lambda t: f"{t:%m %d, %Y}", DAY),
    "seconds in text": (lambda t: str(seconds(t)), SECOND),
    "seconds with a fraction": (lambda t: f"{seconds(t)}.000000", SECOND),
    "milliseconds in text": (lambda t: str(seconds(t) * 1000), SECOND),
    "microseconds in text": (lambda t: str(micros(t)), SECOND),
    "nanoseconds in text": (lambda t: f"{micros(t)}999", SECOND),
    "float seconds": (lambda t: float(seconds(t)), SECOND),
    "float milliseconds": (lambda t: seconds(t) * 1e3, SECOND),
    "decimal seconds": (lambda t: Decimal(seconds(t)) + Decimal("0.000000"), SECOND),
    "decimal nanoseconds": (lambda t: Decimal(micros(t)) * 1000, SECOND),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_moments(tmp_path: Path, form: str) -> None:
    write, to = FORMS[form]
    log(tmp_path, [write(time) for time in MOMENTS])
    made = Prepared(options(tmp_path))
    assert made.schema.rejected == {}
    assert sorted(times_of(made)) == [kept(to)(time) for time in MOMENTS]
    assert max(row["time"] for row in made.train) < min(row["time"] for row in made.test)


@pytest.mark.parametrize(
    "times",
    [
        ["1.5", "0.25", "2.75"],
        [1767225600.5, 1767225600.25, 1767225601.75],
        [Decimal("1767225600.5"), Decimal("1767225600.25"), Decimal("1767225601.75")],
        ["1767225600.5", "1767225600.25", "1767225601.75"],
    ],
)
def test_fractions_of_a_second_are_kept(tmp_path: Path, times: list[Any]) -> None:
    users = {"user_id": [1, 1, 1], "item_id": [1, 2, 3]}
    pq.write_table(pa.table({**users, "time": times}), tmp_path / "log.parquet")
    made = Prepared(options(tmp_path))
    assert times_of(made) == sorted(int(Decimal(time) * 1_000_000) for time in times)


@pytest.mark.parametrize(
    ("write", "formats"),
    [
        (lambda t: f"{t:%m/%d/%Y %H:%M}", ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M")),
        (lambda t: f"{t:%d.%m.%Y %H:%M:%S}", ("%d.%m.%Y %H:%M:%S", "%m.%d.%Y %H:%M:%S")),
        (lambda t: f"{t:%d-%m-%y}", ("%d-%m-%y", "%m-%d-%y")),
        (lambda t: f"{t:%m/%d/%Y %I:%M %p}", ("%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M %p")),
        (
            lambda t: f"{t:%m/%d/%Y, %I:%M:%S %p}",
            ("%d/%m/%Y, %I:%M:%S %p", "%m/%d/%Y, %I:%M:%S %p"),
        ),
        (lambda t: f"{t:%m/%d/%YT%I:%M}pm", ("%d/%m/%YT%I:%M%p", "%m/%d/%YT%I:%M%p")),
        (lambda t: f"{t:%m/%d/%Y %H:%M:%S}.250", ("%d/%m/%Y %H:%M:%S.%f", "%m/%d/%Y %H:%M:%S.%f")),
    ],
)
def test_a_day_that_may_be_a_month_needs_its_format(
    tmp_path: Path, write: Callable[[datetime], str], formats: tuple[str, str]
) -> None:
    texts = [write(time) for time in MOMENTS]
    log(tmp_path, texts)
    message = refused(options(tmp_path), f"log.parquet: row 1: time {texts[0]!r}: the day or the")
    for number, time_format in enumerate(formats):
        assert f"--time-format '{time_format}'" in message, number


def test_of_a_day_with_an_unknown_tail_only_the_start_of_its_format_is_said(tmp_path: Path) -> None:
    log(tmp_path, [f"{time:%m/%d/%Y at %H o'clock}" for time in MOMENTS])
    refused(
        options(tmp_path),
        "pass a --time-format that begins with '%d/%m/%Y' or '%m/%d/%Y' and goes on as the times",
    )


@pytest.mark.parametrize(
    ("time_format", "to"),
    [
        ("%m/%d/%Y, %I:%M:%S %p", SECOND),
        ("%m/%d/%Y %I:%M%p", MINUTE),
        ("%m/%d/%Y %H:%M", MINUTE),
        ("%d.%m.%Y %H:%M:%S", SECOND),
        ("%d %B %Y, %I:%M %p", MINUTE),
        ("%Y%j", DAY),
    ],
)
def test_a_format_reads_what_python_wrote_by_it(
    tmp_path: Path, time_format: str, to: timedelta
) -> None:
    log(tmp_path, [time.strftime(time_format) for time in MOMENTS])
    made = Prepared(options(tmp_path, time_format=time_format))
    assert sorted(times_of(made)) == [kept(to)(time) for time in MOMENTS]


def test_a_format_reads_integers_too(tmp_path: Path) -> None:
    log(tmp_path, [int(f"{time:%Y%m%d}") for time in MOMENTS])
    made = Prepared(options(tmp_path, time_format="%Y%m%d"))
    assert sorted(times_of(made)) == [kept(DAY)(time) for time in MOMENTS]


@pytest.mark.parametrize(
    ("time_format", "words"),
    [
        ("%Q", "--time-format %Q: is no format (Unrecognized format for strftime/strptime: %Q)"),
        ("soon", "--time-format soon: holds no code"),
        ("%d/%m/%Y", "--time-format %d/%m/%Y: reads none of the first times: "),
        ("%d/%m/%Y", "log.parquet: row 1: time '2025-12-28 00:00:00+00:00': write their format"),
    ],
)
def test_a_format_that_is_none_is_refused(tmp_path: Path, time_format: str, words: str) -> None:
    log(tmp_path, [str(time) for time in MOMENTS])
    refused(options(tmp_path, time_format=time_format), words)


def test_a_format_is_for_texts(tmp_path: Path) -> None:
    log(tmp_path, MOMENTS)
    refused(
        options(tmp_path, time_format="%Y"),
        "--time-format %Y: is for times in text",
        "'time' is a time: leave the option out",
    )


def test_a_row_that_the_format_does_not_read_is_bad(tmp_path: Path) -> None:
    texts = [f"{time:%d/%m/%Y}" for time in MOMENTS]
    texts[6] = "12/31/2025"
    log(tmp_path, texts)
    changes = {"time_format": "%d/%m/%Y"}
    words = "log.parquet: row 7: unparsable time (value: 12/31/2025)"
    refused(options(tmp_path, **changes), words, f"1 of {ROWS} rows")
    made = Prepared(options(tmp_path, **changes, max_rejected=0.1))
    assert made.schema.rejected == {"unparsable time": 1}


@pytest.mark.parametrize(
    ("form", "odd"),
    [
        ("a space", "1767225600"),
        ("seconds in text", "2026-01-01 00:00:00"),
        ("seconds in text", "1767225600000"),
        ("milliseconds in text", "1767225600"),
        ("a compact day", "1767225600"),
        ("twitter", "2026-01-01"),
        ("float seconds", 1767225600000.0),
        ("decimal nanoseconds", Decimal(1767225600)),
    ],
)
def test_a_column_has_one_form(tmp_path: Path, form: str, odd: Any) -> None:
    """A row of another form is bad, whatever it would mean."""
    times = [FORMS[form][0](time) for time in MOMENTS]
    times[0] = times[3] = odd
    log(tmp_path, times)
    kind = "time in another form"
    refused(options(tmp_path), f"log.parquet: row 1: {kind}", "write all times in one form")
    made = Prepared(options(tmp_path, max_rejected=0.1))
    assert made.schema.rejected == {kind: 2}
    assert len(times_of(made)) == ROWS - 2


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), None])
def test_a_number_that_is_none_is_no_time(tmp_path: Path, odd: Any) -> None:
    times = [float(seconds(time)) for time in MOMENTS]
    log(tmp_path, [odd, *times[1:]])
    made = Prepared(options(tmp_path, max_rejected=0.1))
    assert made.schema.rejected == {"unparsable time": 1}


def test_texts_of_no_known_form_name_the_option(tmp_path: Path) -> None:
    log(tmp_path, ["", *(f"{time:%d %B %Y}" for time in MOMENTS[1:])])
    refused(
        options(tmp_path),
        "log.parquet: row 2: time '28 December 2025': a time in no known form",
        "--time-format '%d %B %Y %H:%M'",
    )


@pytest.mark.parametrize("time_format", ["%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %H"])
def test_texts_that_only_look_like_a_known_form_name_the_option(
    tmp_path: Path, time_format: str
) -> None:
    """The rows are not bad: the form is unknown."""
    texts = [time.strftime(time_format) for time in MOMENTS]
    log(tmp_path, ["", *texts[1:]])
    words = f"log.parquet: row 2: time {texts[1]!r}: a time in no known form: pass --time-format"
    refused(options(tmp_path), words)
    log(tmp_path, texts)
    made = Prepared(options(tmp_path, time_format=time_format))
    kept_hours = [kept(timedelta(hours=1))(time) for time in MOMENTS]
    assert sorted(times_of(made)) == kept_hours


@pytest.mark.parametrize("first", [202_400_000_000, 2_024_010_112])
def test_numbers_of_which_few_look_like_days_are_milliseconds_or_seconds(
    tmp_path: Path, first: int
) -> None:
    numbers = [first + row * (first // 2600) for row in range(ROWS)]
    log(tmp_path, [str(number) for number in numbers])
    in_one = 1_000 if first > 10**11 else 1_000_000
    assert sorted(times_of(Prepared(options(tmp_path)))) == [n * in_one for n in numbers]


def test_ten_digits_that_are_days_with_the_hour_need_their_format(tmp_path: Path) -> None:
    texts = [time.strftime("%Y%m%d%H") for time in MOMENTS]
    log(tmp_path, texts)
    words = f"log.parquet: row 1: time {texts[0]!r}: all times look like days with the hour"
    refused(options(tmp_path), words, "pass --time-format '%Y%m%d%H'")
    made = Prepared(options(tmp_path, time_format="%Y%m%d%H"))
    assert sorted(times_of(made)) == [kept(timedelta(hours=1))(time) for time in MOMENTS]


@pytest.mark.parametrize(
    ("times", "kind"),
    [
        (pa.array(list(range(ROWS)), pa.time64("us")), "a time of day"),
        (pa.array(list(range(ROWS)), pa.duration("ms")), "a duration"),
        (pa.array([row % 2 == 0 for row in range(ROWS)]), "true or false"),
        (pa.array([b"2026"] * ROWS), "binary"),
        (pa.array([["2026"]] * ROWS), "a list"),
    ],
)
def test_a_type_that_names_no_moment_is_refused(tmp_path: Path, times: Any, kind: str) -> None:
    log(tmp_path, times)
    refused(options(tmp_path), f"log.parquet: time 'time' is {kind}, which names no moment")


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("a compact day", "20260105"),
        ("a compact day", "2026-01-05"),
        ("seconds in text", "1767571200"),
        ("float seconds", "1767571200"),
        ("float seconds", "2026-01-05"),
        ("decimal nanoseconds", "1767571200000000000"),
        ("twitter", "2026-01-05 01:00:00+01:00"),
        ("amazon", "01 05, 2026"),
    ],
)
def test_the_test_starts_at_a_moment_in_the_columns_form_or_in_iso(
    tmp_path: Path, form: str, start: str
) -> None:
    log(tmp_path, [FORMS[form][0](time) for time in MOMENTS])
    made = Prepared(options(tmp_path, test_from=start))
    assert len(made.test) == sum(time >= datetime(2026, 1, 5, tzinfo=UTC) for time in MOMENTS)
