"""Times as people write them: the same moments in every form, or one line that names the cure."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import Prepared, own, raw, refused, write

ROWS = 40
# In no form's alphabetical order: from December to the year after.
MOMENTS = [datetime(2025, 12, 28, tzinfo=UTC) + timedelta(hours=9 * row) for row in range(ROWS)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=1))


def micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def seconds(time: datetime) -> int:
    return micros(time) // 1_000_000


def log(folder: Path, times: Any, **changes: Any) -> ParquetLog:
    columns = {"user_id": [n % 4 for n in range(len(times))], "item_id": [1] * len(times)}
    write(folder / "log.parquet", **columns, time=times)
    return own(folder, **changes)


def read(options: ParquetLog) -> list[int | None]:
    """The times in the order of the rows, of which none is said to be wrong."""
    rows = raw(options, "time", "problem")
    assert {problem for _, problem in rows} == {None}
    return [time for time, _ in rows]


def cut(moments: list[datetime], to: timedelta) -> list[int]:
    """The moments as far as the form tells them."""
    unit = to // timedelta(microseconds=1)
    return [micros(time) // unit * unit for time in moments]


MICROSECOND, SECOND, MINUTE = timedelta.resolution, timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FORMS: dict[str, tuple[Callable[[datetime], Any], timedelta]] = {
    "timestamp": (lambda t: t, SECOND),
    "timestamp without zone": (lambda t: t.replace(tzinfo=None), SECOND),
    "date": (lambda t: t.date(), DAY),
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
    "ZonedDateTime": (lambda t: f"{t.astimezone(BERLIN).isoformat()}[Europe/Berlin]", SECOND),
    "ZonedDateTime in UTC": (lambda t: f"{t:%Y-%m-%dT%H:%M}Z[UTC]", MINUTE),
    "points, year first": (lambda t: f"{t:%Y.%m.%d %H:%M:%S}", SECOND),
    "a day": (lambda t: f"{t:%Y-%m-%d}", DAY),
    "a compact day": (lambda t: f"{t:%Y%m%d}", DAY),
    "basic": (lambda t: f"{t:%Y%m%dT%H%M%S}Z", SECOND),
    "basic with offset": (lambda t: f"{t.astimezone(BERLIN):%Y%m%dT%H%M%S%z}", SECOND),
    "basic without seconds": (lambda t: f"{t:%Y%m%dT%H%M}Z", MINUTE),
    "basic offset, no seconds": (lambda t: f"{t.astimezone(BERLIN):%Y%m%d %H%M%z}", MINUTE),
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
    form_of, to = FORMS[form]
    assert read(log(tmp_path, [form_of(time) for time in MOMENTS])) == cut(MOMENTS, to)


@pytest.mark.parametrize(
    ("type_", "to"),
    [
        (pa.timestamp("us", "Europe/Berlin"), MICROSECOND),
        (pa.timestamp("ns", "America/New_York"), MICROSECOND),
        (pa.timestamp("us"), MICROSECOND),
        (pa.timestamp("ns"), MICROSECOND),
        (pa.timestamp("ms"), timedelta(milliseconds=1)),
        (pa.timestamp("s"), SECOND),
        (pa.string(), MICROSECOND),
    ],
)
def test_timestamps_of_every_type_are_microseconds_in_utc(
    tmp_path: Path, type_: pa.DataType, to: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across the change of Europe's clocks, and whatever the machine's zone."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    start = datetime(2024, 3, 30, 22, tzinfo=UTC)
    moments = [start + timedelta(hours=hour, microseconds=7007) for hour in range(10)]
    plain = pa.array([time.replace(tzinfo=None) for time in moments], pa.timestamp("us"))
    made = Prepared(log(tmp_path, plain.cast(type_, safe=False), test_share=0.2))
    found = [time for part in ("train", "test") for _, _, time in made.triples(part)]
    assert found == cut(moments, to)


def test_each_text_has_its_own_offset_or_none(tmp_path: Path) -> None:
    zones = [timezone(timedelta(hours=-hour)) for hour in range(ROWS // 2)]
    texts = [time.astimezone(zones[row // 2]).isoformat() for row, time in enumerate(MOMENTS)]
    texts[::2] = [f"{time:%Y-%m-%dT%H:%M:%S}" for time in MOMENTS[::2]]
    assert read(log(tmp_path, texts)) == cut(MOMENTS, SECOND)


@pytest.mark.parametrize("kind", [str, float, Decimal])
@pytest.mark.parametrize("times", [["1.5", "0.25"], ["1767225600.5", "1767225601.75"]])
def test_fractions_of_a_second_are_kept(tmp_path: Path, kind: Any, times: list[str]) -> None:
    found = read(log(tmp_path, [kind(time) for time in times]))
    assert found == [int(Decimal(time) * 1_000_000) for time in times]


@pytest.mark.parametrize(
    ("form", "formats"),
    [
        ("%m/%d/%Y %H:%M", ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M")),
        ("%d.%m.%Y %H:%M:%S", ("%d.%m.%Y %H:%M:%S", "%m.%d.%Y %H:%M:%S")),
        ("%d-%m-%y", ("%d-%m-%y", "%m-%d-%y")),
        ("%m/%d/%Y %I:%M %p", ("%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M %p")),
        ("%m/%d/%Y, %I:%M:%S %p", ("%d/%m/%Y, %I:%M:%S %p", "%m/%d/%Y, %I:%M:%S %p")),
        ("%m/%d/%YT%I:%Mpm", ("%d/%m/%YT%I:%M%p", "%m/%d/%YT%I:%M%p")),
        ("%m/%d/%Y %H:%M:%S.250", ("%d/%m/%Y %H:%M:%S.%f", "%m/%d/%Y %H:%M:%S.%f")),
    ],
)
def test_a_day_that_may_be_a_month_needs_its_format(
    tmp_path: Path, form: str, formats: tuple[str, str]
) -> None:
    texts = [time.strftime(form) for time in MOMENTS]
    cures = [f"--time-format '{time_format}'" for time_format in formats]
    start = f"log.parquet: row 1: time {texts[0]!r}: the day or the"
    refused(log(tmp_path, texts), start, *cures)


def test_of_a_day_with_an_unknown_tail_only_the_start_of_its_format_is_said(tmp_path: Path) -> None:
    refused(
        log(tmp_path, [f"{time:%m/%d/%Y at %H o'clock}" for time in MOMENTS]),
        "pass a --time-format that begins with '%d/%m/%Y' or '%m/%d/%Y' and goes on as the times",
    )


@pytest.mark.parametrize(
    ("time_format", "to", "kind"),
    [
        ("%m/%d/%Y, %I:%M:%S %p", SECOND, str),
        ("%m/%d/%Y %I:%M%p", MINUTE, str),
        ("%m/%d/%Y %H:%M", MINUTE, str),
        ("%d.%m.%Y %H:%M:%S", SECOND, str),
        ("%d %B %Y, %I:%M %p", MINUTE, str),
        ("%Y%j", DAY, str),
        ("%Y%m%d", DAY, int),
    ],
)
def test_a_format_reads_what_python_wrote_by_it(
    tmp_path: Path, time_format: str, to: timedelta, kind: type
) -> None:
    texts = [kind(time.strftime(time_format)) for time in MOMENTS]
    assert read(log(tmp_path, texts, time_format=time_format)) == cut(MOMENTS, to)


UNKNOWN = "a time in no known form: pass --time-format with strptime's codes, e.g. --time-format "


@pytest.mark.parametrize(
    ("time_format", "words"),
    [
        ("%d %B %Y %H", f"{UNKNOWN}'%d %B %Y %H:%M'"),
        # These only look like a known form: their rows are not bad, the form is unknown.
        ("%Y-%m-%d %I:%M:%S %p", UNKNOWN),
        ("%Y-%m-%d %H", UNKNOWN),
        ("%Y%m%d%H", "all times look like days with the hour: pass --time-format '%Y%m%d%H'"),
    ],
)
def test_texts_of_no_known_form_are_read_by_their_format(
    tmp_path: Path, time_format: str, words: str
) -> None:
    texts = [time.strftime(time_format) for time in MOMENTS]
    refused(log(tmp_path, ["", *texts[1:]]), f"log.parquet: row 2: time {texts[1]!r}: ", words)
    assert read(log(tmp_path, texts, time_format=time_format)) == cut(MOMENTS, HOUR)


@pytest.mark.parametrize("first", [202_400_000_000, 2_024_010_112])
def test_numbers_of_which_few_look_like_days_are_milliseconds_or_seconds(
    tmp_path: Path, first: int
) -> None:
    numbers = [first + row * (first // 2600) for row in range(ROWS)]
    in_one = 1_000 if first > 10**11 else 1_000_000
    assert read(log(tmp_path, [*map(str, numbers)])) == [number * in_one for number in numbers]


@pytest.mark.parametrize(
    ("times", "time_format", "words"),
    [
        (None, "%Q", "is no format (Unrecognized format for strftime/strptime: %Q)"),
        (None, "soon", "holds no code"),
        (
            None,
            "%d/%m/%Y",
            "reads none of the first times: {log}: row 1: time '2025-12-28 00:00:00+00:00': "
            "write their format",
        ),
        (MOMENTS, "%Y", "is for times in text; {log}: 'time' is a time: leave the option out"),
    ],
)
def test_a_format_that_does_not_fit_is_refused(
    tmp_path: Path, times: Any, time_format: str, words: str
) -> None:
    options = log(tmp_path, times or [*map(str, MOMENTS)], time_format=time_format)
    words = words.format(log=tmp_path / "log.parquet")
    refused(options, f"--time-format {time_format}: {words}")


def test_a_row_that_the_format_does_not_read_is_bad(tmp_path: Path) -> None:
    texts = [f"{time:%d/%m/%Y}" for time in MOMENTS]
    texts[6] = "12/31/2025"
    options = log(tmp_path, texts, time_format="%d/%m/%Y")
    words = "log.parquet: row 7: unparsable time (value: 12/31/2025)"
    refused(options, words, f"1 of {ROWS} rows")


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
    options = log(tmp_path, times)
    kind = "time in another form"
    refused(options, f"log.parquet: row 1: {kind}", "write all times in one form")
    problems = [problem for (problem,) in raw(options, "problem")]
    assert problems == [kind, None, None, kind, *[None] * (ROWS - 4)]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), None])
def test_a_number_that_is_none_is_no_time(tmp_path: Path, odd: Any) -> None:
    times = [float(seconds(time)) for time in MOMENTS]
    assert read(log(tmp_path, [odd, *times[1:]])) == [None, *map(micros, MOMENTS[1:])]


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
    words = f"log.parquet: time 'time' is {kind}, which names no moment: "
    refused(log(tmp_path, times), words, "by --time")


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("timestamp", "2026-01-05"),
        ("timestamp", "2026-01-05T02:00:00+02:00"),
        ("timestamp without zone", "2026-01-05 00:00:00Z"),
        ("offset", "2026-01-05 00:00:00"),
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
    made = Prepared(log(tmp_path, [FORMS[form][0](time) for time in MOMENTS], test_from=start))
    assert len(made.test) == sum(time >= datetime(2026, 1, 5, tzinfo=UTC) for time in MOMENTS)
