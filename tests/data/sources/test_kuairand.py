"""KuaiRand-Pure: one small world in both layouts, and what a hand calculation makes of it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.kuairand import (
    ITEM_ATTRIBUTES,
    LOGS,
    USER_ATTRIBUTES,
    USERS,
    VIDEOS,
    KuaiRand,
)
from dat_rec.errors import UserError
from tests.data.sources.prepared import Prepared, bad_rows, raw, refused, write

# user, video, long watch, seconds, date
EXPOSURES = [
    (0, 10, 1, 100, 20220408),
    (0, 11, 0, 110, 20220408),
    (1, 10, 1, 120, 20220409),
    (0, 12, 1, 130, 20220421),
    (0, 10, 1, 200, 20220430),
    (1, 12, 1, 210, 20220430),
    (1, 11, 0, 220, 20220501),
    (0, 11, 1, 230, 20220501),
    (1, 10, 1, 240, 20220508),
    (2, 10, 1, 250, 20220508),
]
FIRST_FILE = 4
"""Exposures in the first of the two logs, which are the Parquet layout's training rows."""
TAGS = {10: "39,6", 11: "12", 12: None, 13: " 6 ,, 2"}
MUSIC = {10: 9.0, 11: 4.0, 12: None, 13: 9.0}
DEGREES = {0: "full_active", 1: "UNKNOWN", 2: "middle_active", 7: "full_active"}
ONEHOT = {0: 1.0, 1: 0.0, 2: None, 7: 0.0}


def video_columns() -> dict[str, list[Any]]:
    constant: dict[str, list[Any]] = {name: ["x"] * len(TAGS) for name in ITEM_ATTRIBUTES}
    return {
        **constant,
        "author_id": [700 + video for video in TAGS],
        "tag": list(TAGS.values()),
        "video_duration": [1000.0, 2500.0, None, 4000.0],
        "music_type": list(MUSIC.values()),
    }


def user_columns() -> dict[str, list[Any]]:
    constant: dict[str, list[Any]] = {name: [1] * len(DEGREES) for name in USER_ATTRIBUTES}
    return {
        **constant,
        "user_active_degree": list(DEGREES.values()),
        "fans_user_num_range": ["[1,10)", "0", "[10,100)", "0"],
        "onehot_feat12": list(ONEHOT.values()),
    }


def write_parquet(folder: Path) -> Path:
    """Training rows have their order within the user instead of the time."""
    folder.mkdir(exist_ok=True)
    user, item, good, seconds, day = map(list, zip(*EXPOSURES, strict=True))
    rows = range(len(EXPOSURES))
    first = [row < FIRST_FILE for row in rows]
    write(
        folder / "interactions.parquet",
        user_id=user,
        item_id=item,
        long_watch=pa.array(good, pa.int8()),
        order=[float(user[:row].count(user[row])) if first[row] else None for row in rows],
        ts=[0 if first[row] else seconds[row] for row in rows],
        split=[
            "test" if day[row] >= 20220501 else "train" if first[row] else "val" for row in rows
        ],
    )
    write(folder / "items.parquet", item_id=list(TAGS), **video_columns())
    write(folder / "users.parquet", user_id=list(DEGREES), **user_columns())
    return folder


def field(value: Any) -> str:
    text = "" if value is None else str(value)
    return f'"{text}"' if "," in text else text


def write_table(path: Path, columns: dict[str, list[Any]]) -> None:
    rows = [",".join(columns)]
    rows += [",".join(map(field, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(rows) + "\n")


HEADER = "user_id,video_id,date,hourmin,time_ms,is_click,long_view"


def log_line(row: tuple[int, int, int, int, int]) -> str:
    user, video, good, seconds, day = row
    return f"{user},{video},{day},1200,{seconds * 1000},1,{good}"


def write_csv(folder: Path, more: tuple[str, ...] = ()) -> Path:
    """``more``: lines behind the first of the first log."""
    folder.mkdir(exist_ok=True)
    lines = [log_line(row) for row in EXPOSURES]
    logs = [[lines[0], *more, *lines[1:FIRST_FILE]], lines[FIRST_FILE:]]
    for name, log in zip(LOGS, logs, strict=True):
        (folder / name).write_text("\n".join([HEADER, *log]) + "\n")
    write_table(folder / VIDEOS, {"video_id": list(TAGS), **video_columns()})
    write_table(folder / USERS, {"user_id": list(DEGREES), **user_columns()})
    return folder


def below_data(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_csv(folder / "data")
    return folder


Write = Callable[[Path], Path]
LAYOUTS = pytest.mark.parametrize("write", [write_parquet, write_csv, below_data])


def options(folder: Path, **changes: Any) -> KuaiRand:
    return KuaiRand(**{"path": folder, "out": folder.parent / "out", **changes})


def pairs(rows: list[Any]) -> list[tuple[int, int]]:
    return sorted((row["user_id"], row["item_id"]) for row in rows)


TRAINED = [(0, 10), (0, 10), (0, 12), (1, 10), (1, 12)]


@LAYOUTS
def test_every_layout_makes_the_same_dataset(tmp_path: Path, write: Write) -> None:
    """Long watches, split at the first of May; the history holds the earlier ones."""
    made = Prepared(options(write(tmp_path / "kuai")))
    assert (made.schema.rows_read, made.schema.rejected) == (8, {})
    found = sorted((row["user_id"], row["history"], row["item_id"]) for row in made.train)
    assert found == [(0, [], 10), (0, [10], 12), (0, [10, 12], 10), (1, [], 10), (1, [10], 12)]
    assert pairs(made.test) == [(0, 11), (1, 10), (2, 10)]
    assert {user for user, row in made.users.items() if row["trained"]} == {0, 1}
    assert made.users[0]["history"] == [10, 12, 10]
    assert made.users[0]["history_category"] == ["39", None, "39"]
    names = ("title", "category_name", "tag", "music_type", "author_id")
    assert {video: made.attributes(video, *names) for video in TAGS} == {
        10: ("video 10 (category 39)", "39", ["39", "6"], "9", "710"),
        11: ("video 11 (category 12)", "12", ["12"], "4", "711"),
        12: ("video 12", "(unknown)", [], None, "712"),
        13: ("video 13 (category 6)", "6", ["6", "2"], "9", "713"),
    }
    people = ("user_active_degree", "fans_user_num_range", "onehot_feat12", "is_video_author")
    assert {user: tuple(row[name] for name in people) for user, row in made.users.items()} == {
        0: ("full_active", "[1,10)", "1", "1"),
        1: ("UNKNOWN", "0", "0", "1"),
        2: ("middle_active", "[10,100)", None, "1"),
        7: ("full_active", "0", "0", "1"),
    }


def test_both_layouts_make_the_same_dataset_but_for_the_times(tmp_path: Path) -> None:
    parquet = Prepared(options(write_parquet(tmp_path / "a"), out=tmp_path / "out_a"))
    csv = Prepared(options(write_csv(tmp_path / "b"), out=tmp_path / "out_b"))
    assert (parquet.users, parquet.items) == (csv.users, csv.items)
    assert parquet.triples("test") == csv.triples("test")
    assert parquet.schema.features == csv.schema.features
    seconds = [time for _, _, time in csv.triples("train")]
    assert seconds == [row[3] * 1_000_000 for row in EXPOSURES[:6] if row[2]]


BAD_LINES = [
    ("x,10,20220408,1200,105000,1,1", "user_id is no integer", "x"),
    ("1.5,10,20220408,1200,105000,1,1", "user_id is no integer", "1.5"),
    ("0,1.5,20220408,1200,105000,1,1", "video_id is no integer", "1.5"),
    ("0,10,20220408,1200,noon,1,1", "time_ms is no integer", "noon"),
    ("0,10,2022-04-08,1200,105000,1,1", "date is no integer", "2022-04-08"),
    ("0,10,,1200,105000,1,1", "missing date", "nothing"),
    ("0,10,20220408,1200,99999999999999999,1,1", "unparsable time", "99999999999999999"),
    ("0,10,20220408,1200,,1,1", "unparsable time", "nothing"),
    ("0,10,20220408,1200,105000,1,yes", "long_view is no number", "yes"),
    ("0,10,20220408,1200,105000,1,", "long_view is no number", "nothing"),
    ("0,10,20220408,1200,105000,1,nan", "long_view is no number", "nan"),
    ("0,10,20220408,1200", "long_view is no number", "nothing"),
    (",10,20220408,1200,105000,1,1", "missing user_id", "nothing"),
    ("-5,10,20220408,1200,105000,1,1", "negative user_id", "-5"),
    ("0,99,20220408,1200,105000,1,1", "item not in the catalogue", "99"),
]


def test_bad_lines_are_located_and_counted_by_kind(tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "kuai", tuple(line for line, _, _ in BAD_LINES))
    path = str(folder / LOGS[0])
    numbered = enumerate(BAD_LINES, 2)
    expected = [(path, row, kind, value) for row, (_, kind, value) in numbered]
    assert bad_rows(options(folder)) == expected
    start = f"{path}: row 2: user_id is no integer (value: x): correct or remove the row. "
    refused(options(folder, max_rejected=0.5), f"{start}15 of 23 rows", "--max-rejected")
    made = Prepared(options(folder, max_rejected=0.66))
    assert made.schema.rejected == Counter(kind for _, kind, _ in BAD_LINES)
    assert pairs(made.train) == TRAINED


def test_short_watches_are_left_out_uncounted(tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "kuai", ("0,10,,1200,,1,0",))
    assert len(raw(options(folder), "row")) == 8


def change(folder: Path, name: str, column: str, row: int, value: Any) -> None:
    path = folder / f"{name}.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    type_ = None if isinstance(value, float) else table[column].type
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, type_)), path)


BAD_CELLS = [
    ("interactions", "split", 2, "trian", "split is not train, val or test", "trian"),
    ("interactions", "split", 2, None, "split is not train, val or test", "nothing"),
    ("interactions", "order", 2, float("nan"), "unparsable time", "nan"),
    ("interactions", "ts", 4, None, "unparsable time", "nothing"),
    ("interactions", "ts", 4, 10**17 - 1, "unparsable time", "9" * 17),
    ("interactions", "long_watch", 1, None, "missing long_watch", "nothing"),
    ("interactions", "long_watch", 1, float("nan"), "missing long_watch", "nan"),
    ("interactions", "item_id", 5, None, "missing item_id", "nothing"),
    ("interactions", "item_id", 5, 99, "item not in the catalogue", "99"),
    ("items", "item_id", 3, 10, "duplicate item_id in items", "10"),
    ("users", "user_id", 3, -1, "negative user_id in users", "-1"),
]


@pytest.mark.parametrize(("name", "column", "row", "value", "kind", "shown"), BAD_CELLS)
def test_a_bad_cell_is_located(
    tmp_path: Path, name: str, column: str, row: int, value: Any, kind: str, shown: str
) -> None:
    folder = write_parquet(tmp_path / "kuai")
    change(folder, name, column, row, value)
    count = {"interactions": 9 if column == "long_watch" else 8, "items": 4, "users": 4}[name]
    place = f"{name}.parquet: row {row + 1}: {kind} (value: {shown})"
    refused(options(folder), place, f"1 of {count} rows of the {name}")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_parquet, "items.parquet"),
        (write_parquet, "users.parquet"),
        (write_csv, LOGS[1]),
        (write_csv, USERS),
        (write_csv, VIDEOS),
    ],
)
def test_a_missing_file_or_column(tmp_path: Path, write: Write, name: str) -> None:
    folder = write(tmp_path / "kuai")
    path = folder / name
    column = {"u": "onehot_feat3", "i": "tag", "v": "tag", "l": "long_view"}[name[0]]
    if path.suffix == ".csv":
        path.write_text(path.read_text().replace(column, "other", 1))
    else:
        pq.write_table(pq.read_table(path).drop_columns([column]), path)
    refused(options(folder), str(path), f"column {column!r} is missing", "it has")
    path.unlink()
    refused(options(folder), str(path))


def test_another_folder(tmp_path: Path) -> None:
    (tmp_path / "kuai").mkdir()
    refused(options(tmp_path / "kuai"), "neither interactions.parquet nor", "KuaiRand-Pure")
    refused(options(tmp_path / "none"), "none: no such file or folder")


def test_training_rows_that_have_an_order_and_no_time_have_no_last_days(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "kuai")
    with pytest.raises(UserError, match=r"^--train-from 2022-04-10: .* no times of training rows"):
        prepare(options(folder, out=tmp_path / "out", train_from="2022-04-10"))
    assert not (tmp_path / "out").exists()
