"""A user's own Parquet files: mapped columns, types of ids and times, with and without tables."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.sources.parquet_log import ParquetLog
from tests.data.sources.prepared import Prepared, refused

# user, item, time; the last two of ten are the test
ROWS = [(row % 3, (row * row) % 4, row) for row in range(10)]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def log(path: Path, user: Any = int, item: Any = int, time: Any = int, **more: Any) -> Path:
    """ROWS with each column made by a function."""
    return write(
        path,
        user_id=[user(u) for u, _, _ in ROWS],
        item_id=[item(i) for _, i, _ in ROWS],
        time=[time(t) for _, _, t in ROWS],
        **more,
    )


def options(folder: Path, **changes: Any) -> ParquetLog:
    values = {"out": folder / "out", "interactions": folder / "log.parquet", "test_share": 0.2}
    return ParquetLog(**{**values, **changes})


def split(made: Prepared) -> tuple[list[Any], list[Any]]:
    return made.triples("train"), made.triples("test")


def test_a_log_alone_has_the_catalogue_of_its_items(tmp_path: Path) -> None:
    log(tmp_path / "log.parquet")
    made = Prepared(options(tmp_path))
    assert split(made) == (ROWS[:8], ROWS[8:])
    assert {number: row["title"] for number, row in made.items.items()} == {0: "0", 1: "1"}
    assert {row["category_name"] for row in made.items.values()} == {"(unknown)"}
    assert set(made.users) == {0, 1, 2}
    assert [feature.name for feature in made.schema.features] == [
        "user",
        "history",
        "history_category",
        "item",
        "category",
    ]


@pytest.mark.parametrize(
    ("user", "item"),
    [
        (lambda u: f"user {u}", lambda i: f"item '{i}'"),
        (int, lambda i: f"-{i}"),
        (lambda u: 2**62 + u, lambda i: f"{i:03}"),
    ],
)
def test_ids_are_integers_or_text(tmp_path: Path, user: Any, item: Any) -> None:
    log(tmp_path / "log.parquet", user, item)
    expected = [(user(u), item(i), t) for u, i, t in ROWS]
    assert split(Prepared(options(tmp_path))) == (expected[:8], expected[8:])


@pytest.mark.parametrize("width", [pa.int8(), pa.uint16(), pa.int32(), pa.uint32()])
def test_integers_of_every_width_match_those_of_the_tables(tmp_path: Path, width: Any) -> None:
    narrow = [pa.array(column, width) for column in zip(*ROWS, strict=True)]
    names = ("user_id", "item_id", "time")
    write(tmp_path / "log.parquet", **dict(zip(names, narrow, strict=True)))
    items = write(tmp_path / "items.parquet", item_id=[0, 1], color=["red", "blue"])
    users = write(tmp_path / "users.parquet", user_id=[0, 1, 2])
    made = Prepared(options(tmp_path, items=items, users=users, category="color"))
    assert split(made) == (ROWS[:8], ROWS[8:])
    assert made.attributes(1, "category_name") == ("blue",)


def test_ids_of_another_type_are_refused(tmp_path: Path) -> None:
    log(tmp_path / "log.parquet", item=lambda i: i + 0.5)
    refused(options(tmp_path), "log.parquet: row 1: item_id 0.5 is no whole number", "or text")
    log(tmp_path / "log.parquet", user=lambda u: f"{u}")
    users = write(tmp_path / "users.parquet", user_id=[0, 1, 2])
    refused(options(tmp_path, users=users), "user_id is VARCHAR in the interactions and BIGINT")


def test_dictionary_and_large_strings_are_text(tmp_path: Path) -> None:
    write(
        tmp_path / "log.parquet",
        user_id=pa.array([f"u{u}" for u, _, _ in ROWS]).dictionary_encode(),
        item_id=pa.array([f"i{i}" for _, i, _ in ROWS], pa.large_string()),
        time=[t for _, _, t in ROWS],
    )
    expected = [(f"u{u}", f"i{i}", t) for u, i, t in ROWS]
    assert split(Prepared(options(tmp_path))) == (expected[:8], expected[8:])


START = datetime(2024, 3, 30, 22, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=30))


def moment(hour: int) -> datetime:
    """Across the change of Europe's clocks."""
    return START + timedelta(hours=hour, microseconds=7)


def in_microseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


MOMENTS = [moment(hour) for hour in range(10)]
PLAIN = [time.replace(tzinfo=None) for time in MOMENTS]
TIMES = {
    "utc": pa.array(MOMENTS, pa.timestamp("us", "UTC")),
    "a zone": pa.array(MOMENTS, pa.timestamp("us", "Europe/Berlin")),
    "nanoseconds": pa.array(MOMENTS, pa.timestamp("ns", "America/New_York")),
    "no zone": pa.array(PLAIN, pa.timestamp("us")),
    "nanoseconds, no zone": pa.array(PLAIN, pa.timestamp("ns")),
    "text": [str(time) for time in PLAIN],
    "text in utc": [f"{time.isoformat()}Z" for time in PLAIN],
    "text with offset": [time.astimezone(EAST).isoformat() for time in MOMENTS],
    "text with various offsets": [
        time.astimezone(timezone(timedelta(hours=-number))).isoformat()
        for number, time in enumerate(MOMENTS)
    ],
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_microseconds_in_utc(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    user, item, _ = zip(*ROWS, strict=True)
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=TIMES[kind])
    expected = [(u, i, in_microseconds(moment(t))) for u, i, t in ROWS]
    assert split(Prepared(options(tmp_path))) == (expected[:8], expected[8:])


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_coarser_times(tmp_path: Path, unit: str) -> None:
    user, item, time = zip(*ROWS, strict=True)
    coarse = pa.array(time, pa.int64()).cast(pa.timestamp(unit))
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=coarse)
    factor = {"s": 1_000_000, "ms": 1_000}[unit]
    expected = [(u, i, t * factor) for u, i, t in ROWS]
    assert split(Prepared(options(tmp_path))) == (expected[:8], expected[8:])


def test_dates(tmp_path: Path) -> None:
    log(tmp_path / "log.parquet", time=lambda t: date(1970, 1, 1 + t // 2))
    day = 24 * 3600 * 1_000_000
    expected = [(u, i, t // 2 * day) for u, i, t in ROWS]
    made = Prepared(options(tmp_path, test_share=0.1))
    assert made.triples("train") == sorted(expected[:8], key=lambda row: (row[2], *row[:2]))
    assert made.triples("test") == sorted(expected[8:], key=lambda row: (row[2], *row[:2]))


@pytest.mark.parametrize(
    "start", ["2024-03-31 04:00:00", "2024-03-31T06:00:00+02:00", "2024-03-31 04:00:00Z"]
)
@pytest.mark.parametrize("kind", ["a zone", "nanoseconds", "text", "text with offset", "no zone"])
def test_the_test_starts_at_a_moment(tmp_path: Path, kind: str, start: str) -> None:
    """Six hours after the first row, which is seven microseconds late: rows 6 to 9."""
    user, item, _ = zip(*ROWS, strict=True)
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=TIMES[kind])
    expected = [(u, i, in_microseconds(moment(t))) for u, i, t in ROWS]
    made = Prepared(options(tmp_path, test_from=start))
    assert split(made) == (expected[:6], expected[6:])


def test_the_test_starts_at_an_integer(tmp_path: Path) -> None:
    log(tmp_path / "log.parquet")
    assert split(Prepared(options(tmp_path, test_from="4"))) == (ROWS[:4], ROWS[4:])


def test_every_column_can_be_mapped(tmp_path: Path) -> None:
    user, item, time = zip(*ROWS, strict=True)
    bought = [row % 2 for row in range(10)]
    columns = {"who": user, 'the "SKU"': item, "when, exactly": time, "bought?": bought}
    write(tmp_path / "log.parquet", **columns)
    items = write(
        tmp_path / "items.parquet",
        **{'the "SKU"': [1, 0], "the name": ["cup", "mug"], "Dept.": ["x", "y"]},
    )
    names = {"user_id": "who", "item_id": 'the "SKU"', "time": "when, exactly"}
    made = Prepared(
        options(tmp_path, **names, items=items, title="the name", label="bought?", test_share=0.5)
    )
    good = [row for row, label in zip(ROWS, bought, strict=True) if label]
    assert split(made) == (good[:2], good[2:])
    assert {number: row["title"] for number, row in made.items.items()} == {1: "cup", 0: "mug"}


def test_columns_named_like_ours_do_no_harm(tmp_path: Path) -> None:
    odd = {name: ["?"] * 10 for name in ("file", "Row", "filename", "problem", "value")}
    log(tmp_path / "log.parquet", **odd)
    assert split(Prepared(options(tmp_path))) == (ROWS[:8], ROWS[8:])
    log(tmp_path / "log.parquet", user=lambda u: u - 1, **odd)
    refused(options(tmp_path, out=tmp_path / "b"), "log.parquet: row 1: negative user_id")


@pytest.mark.parametrize(
    ("label", "least", "good", "missing"),
    [
        ([1, 0, None, 1, 1, 0, 1, 1, 1, 1], 1.0, (0, 3, 4, 6, 7, 8, 9), 1),
        ([5.0, 3.5, float("nan"), 3.4, 4, 5, None, 5, 1, 4], 3.5, (0, 1, 4, 5, 7, 9), 2),
        ([True, False] * 5, 1.0, (0, 2, 4, 6, 8), 0),
        (pa.array([4.1, 4.0] * 5, pa.float32()), 4.1, (0, 2, 4, 6, 8), 0),
        (pa.array([4.1, 4.0] * 5, pa.float64()), 4.1, (0, 2, 4, 6, 8), 0),
        (pa.array([4.1, 4.0] * 5, pa.float32()), -1e39, tuple(range(10)), 0),
    ],
)
def test_the_label_tells_the_positives(
    tmp_path: Path, label: Any, least: float, good: tuple[int, ...], missing: int
) -> None:
    """Good rows and missing labels are counted as read; the missing as bad."""
    log(tmp_path / "log.parquet", stars=label)
    limit = missing / (len(good) + missing)
    made = Prepared(options(tmp_path, label="stars", min_label=least, max_rejected=limit))
    assert made.schema.rejected == ({"missing label": missing} if missing else {})
    assert made.schema.rows_read == len(good) + missing
    assert made.triples("train") + made.triples("test") == [ROWS[row] for row in good]


HALF, SINGLE, DOUBLE = np.float16, np.float32, np.float64


@pytest.mark.parametrize("least", [4.1, 4.2])
@pytest.mark.parametrize(
    "widths",
    [(HALF,), (SINGLE,), (SINGLE, DOUBLE), (DOUBLE, SINGLE), (HALF, SINGLE, DOUBLE),
     (DOUBLE, SINGLE, HALF), (HALF, SINGLE), (SINGLE, HALF)],
)  # fmt: skip
def test_a_label_is_compared_in_the_width_of_its_own_file(
    tmp_path: Path, widths: tuple[Any, ...], least: float
) -> None:
    """4.1 in 32 bits and 4.2 in 16 are less than in 64: as good as the others all the same."""
    (tmp_path / "log").mkdir()
    rows = [(part, item, 10 * part + item) for part in range(len(widths)) for item in range(4)]
    for part, width in enumerate(widths):
        write(
            tmp_path / "log" / f"{part}.parquet",
            user_id=[part] * 4,
            item_id=list(range(4)),
            time=[10 * part + item for item in range(4)],
            stars=np.array([least, least - 0.05, least + 0.05, 0], width),
        )
    made = Prepared(
        options(tmp_path, interactions=tmp_path / "log", label="stars", min_label=least)
    )
    good = [row for row in rows if row[1] in (0, 2)]
    assert made.triples("train") + made.triples("test") == good


def test_a_wide_label_just_below_is_no_positive_beside_narrow_ones(tmp_path: Path) -> None:
    """2**24 + 1 in 32 bits is 2**24, which in 64 bits is another number."""
    (tmp_path / "log").mkdir()
    for part, width in enumerate((SINGLE, DOUBLE)):
        stars = np.array([2**24, 2**24 + 1, 2**24 + 2, 0], width)
        write(
            tmp_path / "log" / f"{part}.parquet",
            user_id=[part] * 4,
            item_id=list(range(4)),
            time=[10 * part + item for item in range(4)],
            stars=stars,
        )
    changes = {"label": "stars", "min_label": 2.0**24 + 1}
    made = Prepared(options(tmp_path, interactions=tmp_path / "log", **changes))
    found = [row[:2] for row in made.triples("train") + made.triples("test")]
    assert found == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]


def test_attributes_follow_their_types(tmp_path: Path) -> None:
    log(tmp_path / "log.parquet")
    items = write(
        tmp_path / "items.parquet",
        item_id=[0, 1, 2],
        dept=["x", "", "z"],
        tags=[["b", "a", "b"], None, ["", "c"]],
        sizes=[[3, 1], [], [1]],
        weight=[1.5, float("nan"), 3.0],
        year=[1999, 2005, None],
        stock=[10, 20, 30],
    )
    users = write(
        tmp_path / "users.parquet",
        user_id=[0, 1, 9],
        vip=[True, None, False],
        langs=[["en"], ["de", "en"], []],
    )
    features = ("tags", "sizes", "weight", "year", "stock")
    made = Prepared(
        options(
            tmp_path,
            items=items,
            users=users,
            category="dept",
            item_features=features,
            numbers=("stock",),
            user_features=("vip", "langs"),
        )
    )
    low, high = "[-inf, 3)", "[3, inf)"
    assert made.attributes(0, "dept", *features[:4]) == ("x", ["b", "a"], ["3", "1"], low, "1999")
    assert made.attributes(1, "dept", *features[:4]) == (None, [], [], None, "2005")
    assert made.attributes(2, "dept", *features[:4]) == ("z", ["c"], ["1"], high, None)
    assert [made.items[number]["stock"] for number in range(3)] == [
        "[-inf, 20)",
        "[20, 30)",
        "[30, inf)",
    ]
    assert {number: (row["vip"], row["langs"]) for number, row in made.users.items()} == {
        0: ("true", ["en"]),
        1: (None, ["de", "en"]),
        2: (None, []),
        9: ("false", []),
    }
    multi = {feature.name for feature in made.schema.features if feature.multi_valued}
    assert multi == {"history", "history_category", "tags", "sizes", "langs"}
    for row in made.train:
        assert row["tags"] == made.items[row["item_id"]]["tags"]
        assert row["langs"] == made.users[row["user_id"]]["langs"]


def test_the_history_is_what_came_before(tmp_path: Path) -> None:
    log(tmp_path / "log.parquet")
    made = Prepared(options(tmp_path, history_length=2))
    for row in made.train:
        user, time = row["user_id"], row["time"]
        assert row["history"] == [i for u, i, t in ROWS[:8] if u == user and t < time][-2:]


def test_a_folder_of_files_is_one_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for number in range(3):
        user, item, time = zip(*ROWS[number::3], strict=True)
        write(
            tmp_path / "log" / f"{number}.parquet",
            user_id=user,
            item_id=item,
            time=time,
        )
    made = Prepared(options(tmp_path, interactions=tmp_path / "log"))
    assert split(made) == (ROWS[:8], ROWS[8:])
    (tmp_path / "empty").mkdir()
    refused(options(tmp_path, interactions=tmp_path / "empty", out=tmp_path / "b"), "empty")


@pytest.mark.parametrize(
    ("time", "value"),
    [(["yesterday"], "yesterday"), ([None], "nothing"), (["infinity"], "infinity")],
)
def test_a_bad_text_time_is_located_and_counted(tmp_path: Path, time: Any, value: str) -> None:
    texts = [f"2024-01-{row + 1:02}" for row in range(9)]
    user, item, _ = zip(*ROWS, strict=True)
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=texts[:4] + time + texts[4:])
    words = (f"log.parquet: row 5: unparsable time (value: {value})", "remove the row")
    refused(options(tmp_path), *words, "1 of 10 rows", "--max-rejected")
    made = Prepared(options(tmp_path, max_rejected=0.1))
    assert made.schema.rejected == {"unparsable time": 1}
    assert len(made.train) + len(made.test) == 9


def test_bad_ids_in_text_are_counted_by_kind(tmp_path: Path) -> None:
    user = ["a", "", None, "b", "c", "a", "b", "c", "a", "b"]
    item = ["x", "x", "x", "", "y", "gone", "x", "y", "x", "y"]
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=list(range(10)))
    items = write(tmp_path / "items.parquet", item_id=["x", "y", "x"], dept=["1", "2", "3"])
    tables = {"items": items, "category": "dept"}
    refused(options(tmp_path, **tables), "items.parquet: row 3: duplicate item_id in items")
    refused(
        options(tmp_path, **tables, max_rejected=0.35),
        "log.parquet: row 2: missing user_id",
        "fill it in or remove the row",
        "4 of 10 rows",
    )
    made = Prepared(options(tmp_path, **tables, max_rejected=0.4))
    assert made.schema.rejected == {
        "duplicate item_id in items": 1,
        "item not in the catalogue": 1,
        "missing item_id": 1,
        "missing user_id": 2,
    }
    assert made.attributes("x", "dept") == ("1",)
    good = [(user[row], item[row], row) for row in (0, 4, 6, 7, 8, 9)]
    assert made.triples("train") + made.triples("test") == good


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interactions": "nowhere.parquet"}, ("nowhere.parquet: no such file",)),
        ({"user_id": "who"}, ("log.parquet", "column 'who' is missing", "it has user_id")),
        ({"label": "stars"}, ("log.parquet", "column 'stars' is missing")),
        ({"items": "log.parquet", "category": "dept"}, ("column 'dept' is missing",)),
        ({"items": "items.parquet", "category": "tags"}, ("category 'tags' is VARCHAR[]",)),
        (
            {"items": "items.parquet", "item_features": ("tags",), "numbers": ("tags",)},
            ("--numbers tags", "name a number"),
        ),
    ],
)
def test_wrong_mappings(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    log(tmp_path / "log.parquet")
    write(tmp_path / "items.parquet", item_id=[0, 1], tags=[["a"], ["b"]], category=["a", "b"])
    files = {
        name: tmp_path / value
        for name, value in changes.items()
        if name in ("interactions", "items")
    }
    refused(options(tmp_path, **{**changes, **files}), *words)
