"""A user's own Parquet files: mapped columns, types of ids and times, with and without tables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tests.data.sources.prepared import Prepared, own, raw, refused, write

# user, item, time; the last two of ten are the test
ROWS = [(row % 3, (row * row) % 4, row) for row in range(10)]
Made = Callable[[Any], Any]


def log(folder: Path, user: Made = int, item: Made = int, **columns: Any) -> Path:
    """ROWS with each id made by a function, and more columns, which may replace them."""
    users, items, times = zip(*ROWS, strict=True)
    made = {"user_id": [*map(user, users)], "item_id": [*map(item, items)], "time": times}
    return write(folder / "log.parquet", **{**made, **columns})


def split(folder: Path, **changes: Any) -> tuple[list[Any], list[Any]]:
    made = Prepared(own(folder, test_share=0.2, **changes))
    return made.triples("train"), made.triples("test")


def test_a_log_alone_has_the_catalogue_of_its_items(tmp_path: Path) -> None:
    log(tmp_path)
    made = Prepared(own(tmp_path))
    assert {number: row["title"] for number, row in made.items.items()} == {0: "0", 1: "1"}
    assert {row["category_name"] for row in made.items.values()} == {"(unknown)"}
    assert set(made.users) == {0, 1, 2}
    names = [feature.name for feature in made.schema.features]
    assert names == ["user", "history", "history_category", "item", "category"]
    assert made.schema.feature("category").rows == 1


@pytest.mark.parametrize(
    ("user", "item"),
    [
        (lambda u: f"user {u}", lambda i: f"item '{i}'"),
        (int, lambda i: f"-{i}"),
        (lambda u: 2**62 + u, lambda i: f"{i:03}"),
    ],
)
def test_ids_are_integers_or_text(tmp_path: Path, user: Any, item: Any) -> None:
    log(tmp_path, user, item)
    expected = [(user(u), item(i), t) for u, i, t in ROWS]
    assert split(tmp_path) == (expected[:8], expected[8:])


@pytest.mark.parametrize("width", [pa.int8(), pa.uint16(), pa.int32(), pa.uint32(), pa.uint64()])
def test_integers_of_every_width_match_those_of_the_tables(tmp_path: Path, width: Any) -> None:
    user, item, time = (pa.array(column, width) for column in zip(*ROWS, strict=True))
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=time)
    items = write(tmp_path / "items.parquet", item_id=[0, 1], color=["red", "blue"])
    users = write(tmp_path / "users.parquet", user_id=[0, 1, 2])
    made = Prepared(own(tmp_path, items=items, users=users, category="color"))
    assert made.triples("train") + made.triples("test") == ROWS
    assert made.attributes(1, "category_name") == ("blue",)


def test_dictionary_and_large_strings_are_text(tmp_path: Path) -> None:
    user = pa.array([f"u{u}" for u, _, _ in ROWS]).dictionary_encode()
    item = pa.array([f"i{i}" for _, i, _ in ROWS], pa.large_string())
    log(tmp_path, user_id=user, item_id=item)
    expected = [(f"u{u}", f"i{i}", t) for u, i, t in ROWS]
    assert split(tmp_path) == (expected[:8], expected[8:])


def test_the_test_starts_at_an_integer(tmp_path: Path) -> None:
    log(tmp_path)
    assert split(tmp_path, test_from="4") == (ROWS[:4], ROWS[4:])


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
    made = Prepared(own(tmp_path, **names, items=items, title="the name", label="bought?"))
    good = [row for row, label in zip(ROWS, bought, strict=True) if label]
    assert made.triples("train") + made.triples("test") == good
    assert {number: row["title"] for number, row in made.items.items()} == {1: "cup", 0: "mug"}


def test_columns_named_like_ours_do_no_harm(tmp_path: Path) -> None:
    names = ("file", "Row", "filename", "_file", "problem", "value")
    log(tmp_path, user=lambda u: u - 1, **{name: ["/etc/passwd"] * 10 for name in names})
    place = f"{tmp_path / 'log.parquet'}: row 1: negative user_id"
    refused(own(tmp_path), place)
    log(tmp_path, row=[u for u, _, _ in ROWS], user_id=[i for _, i, _ in ROWS])
    turned = split(tmp_path, user_id="row", item_id="user_id")
    assert turned == (ROWS[:8], ROWS[8:])


FLAGS = [row % 2 for row in range(10)]
ODD = tuple(range(1, 10, 2))


@pytest.mark.parametrize(
    ("label", "least", "good", "missing"),
    [
        ([1, 0, None, 1, 1, 0, 1, 1, 1, 1], 1.0, (0, 3, 4, 6, 7, 8, 9), (2,)),
        ([5.0, 3.5, float("nan"), 3.4, 4, 5, None, 5, 1, 4], 3.5, (0, 1, 4, 5, 7, 9), (2, 6)),
        (pa.array(FLAGS, pa.int8()).cast(pa.bool_()), 1.0, ODD, ()),
        (pa.array(FLAGS, pa.uint64()), 1.0, ODD, ()),
        (pa.array(FLAGS).cast(pa.decimal128(21, 2)), 1.0, ODD, ()),
        (pa.array([4.0, 4.1] * 5, pa.float32()), 4.1, ODD, ()),
        (pa.array([4.0, 4.1] * 5, pa.float64()), 4.1, ODD, ()),
        (pa.array([4.0, 4.1] * 5, pa.float32()), -1e39, range(10), ()),
    ],
)
def test_the_label_tells_the_positives(
    tmp_path: Path, label: Any, least: float, good: Sequence[int], missing: Sequence[int]
) -> None:
    """Good rows and missing labels are read; the missing are bad."""
    log(tmp_path, stars=label)
    rows = raw(own(tmp_path, label="stars", min_label=least), "time", "problem")
    assert [row for row, problem in rows if problem is None] == [*good]
    assert [row for row, problem in rows if problem == "missing label"] == [*missing]
    assert len(rows) == len(good) + len(missing)


HALF, SINGLE, DOUBLE = np.float16, np.float32, np.float64


def positives(folder: Path, stars: list[Any], least: float) -> list[tuple[Any, ...]]:
    """(part, place in it) of the labels that count, of a log with a part for each array."""
    (folder / "log").mkdir()
    for part, values in enumerate(stars):
        ids = {"user_id": [part] * len(values), "item_id": [*range(len(values))]}
        path = folder / "log" / f"{part}.parquet"
        write(path, **ids, time=ids["item_id"], stars=values)
    options = own(folder, interactions=folder / "log", label="stars", min_label=least)
    return raw(options, "user_id", "item_id")


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
    stars = [np.array([least, least - 0.05, least + 0.05, 0], width) for width in widths]
    found = positives(tmp_path, stars, least)
    assert found == [(part, item) for part in range(len(widths)) for item in (0, 2)]


def test_a_wide_label_just_below_is_no_positive_beside_narrow_ones(tmp_path: Path) -> None:
    """2**24 + 1 in 32 bits is 2**24, which in 64 bits is another number."""
    stars = [np.array([2**24, 2**24 + 1, 2**24 + 2, 0], width) for width in (SINGLE, DOUBLE)]
    found = positives(tmp_path, stars, 2.0**24 + 1)
    assert found == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]


def test_attributes_follow_their_types(tmp_path: Path) -> None:
    log(tmp_path)
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
    chosen = {"item_features": features, "user_features": ("vip", "langs"), "numbers": ("stock",)}
    made = Prepared(own(tmp_path, items=items, users=users, category="dept", **chosen))
    low, high = "[-inf, 3)", "[3, inf)"
    assert made.attributes(0, "dept", *features[:4]) == ("x", ["b", "a"], ["3", "1"], low, "1999")
    assert made.attributes(1, "dept", *features[:4]) == (None, [], [], None, "2005")
    assert made.attributes(2, "dept", *features[:4]) == ("z", ["c"], ["1"], high, None)
    stock = [made.items[number]["stock"] for number in range(3)]
    assert stock == ["[-inf, 20)", "[20, 30)", "[30, inf)"]
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
    log(tmp_path)
    made = Prepared(own(tmp_path, test_share=0.2, history_length=2))
    for row in made.train:
        user, time = row["user_id"], row["time"]
        assert row["history"] == [i for u, i, t in ROWS[:8] if u == user and t < time][-2:]


@pytest.mark.parametrize("name", ["start", "stop", "shuffle"])
def test_a_feature_may_bear_a_name_of_the_inner_tables(tmp_path: Path, name: str) -> None:
    log(tmp_path)
    items = write(tmp_path / "items.parquet", item_id=[0, 1], **{name: ["a", "b"]})
    made = Prepared(own(tmp_path, items=items, item_features=(name,)))
    assert {row["item_id"]: row[name] for row in made.train} == {0: "a", 1: "b"}


def test_a_folder_of_files_is_one_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for number in range(3):
        user, item, time = zip(*ROWS[number::3], strict=True)
        write(tmp_path / "log" / f"{number}.parquet", user_id=user, item_id=item, time=time)
    assert split(tmp_path, interactions=tmp_path / "log") == (ROWS[:8], ROWS[8:])


GOOD = {
    "time": [f"2024-01-{row + 1:02}" for row in range(10)],
    "order": list(range(10)),
    "user_id": list("ababababab"),
    "item_id": list("ababababab"),
    "good": [1.0] * 10,
}


@pytest.mark.parametrize(
    ("column", "value", "kind", "shown"),
    [
        ("time", "yesterday", "unparsable time", "yesterday"),
        ("time", None, "unparsable time", "nothing"),
        ("time", "infinity", "unparsable time", "infinity"),
        ("order", 2**64 - 1, "unparsable time", str(2**64 - 1)),
        ("user_id", "", "missing user_id", ""),
        ("user_id", None, "missing user_id", "nothing"),
        ("item_id", "", "missing item_id", ""),
        ("good", float("nan"), "missing label", "nan"),
    ],
)
def test_a_bad_cell_is_located_and_counted(
    tmp_path: Path, column: str, value: Any, kind: str, shown: str
) -> None:
    values = [*GOOD[column][:4], value, *GOOD[column][5:]]
    log(tmp_path, **{column: pa.array(values, pa.uint64()) if column == "order" else values})
    changes = {"order": {"time": "order"}, "good": {"label": "good"}}.get(column, {})
    place = f"log.parquet: row 5: {kind} (value: {shown}): "
    refused(own(tmp_path, **changes), place, "remove the row", "1 of 10 rows", "--max-rejected")
    made = Prepared(own(tmp_path, **changes, max_rejected=0.1))
    assert made.schema.rejected == {kind: 1}
    assert len(made.train) + len(made.test) == 9
    assert "" not in {*made.users, *made.items}


FILES = ("interactions", "items")
ITEMS = {"items": "items.parquet"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interactions": "nowhere.parquet"}, "nowhere.parquet: no such file"),
        ({"interactions": "empty"}, "empty: holds no files"),
        ({"user_id": "who"}, "log.parquet: column 'who' is missing: it has user_id, item_id, time"),
        ({"time": "when"}, "log.parquet: column 'when' is missing: it has user_id, item_id, time"),
        ({"label": "stars"}, "log.parquet: column 'stars' is missing"),
        ({"label": "good", "min_label": float("nan")}, "--min-label nan: must be a finite number"),
        ({"label": "good", "min_label": float("inf")}, "--min-label inf: must be a finite number"),
        ({"test_from": "999"}, "no interaction is held out to test on (test: from 999 on)"),
        ({"items": "log.parquet", "category": "dept"}, "column 'dept' is missing"),
        (ITEMS | {"category": "tags"}, "category 'tags' is VARCHAR[]: name a column of text or"),
        (ITEMS | {"item_features": ("tags",), "numbers": ("tags",)}, "--numbers tags: the column"),
        (
            ITEMS | {"item_features": ("category",)},
            "--item-features category: pass it as --category category",
        ),
        (ITEMS | {"item_features": ("a/b",)}, "attribute 'a/b': the name is reserved, or holds"),
        (ITEMS | {"item_features": ("Title",)}, "'Title': the name is reserved, or holds one"),
        (ITEMS | {"item_features": ("it's",)}, "the name is reserved, or holds one of @ . / ' \""),
        (ITEMS | {"item_features": ('5"',)}, "the name is reserved, or holds one of @ . / ' \""),
        (ITEMS | {"category": "5\nstars"}, "'5\\nstars': the name is reserved, or holds one"),
        (ITEMS | {"category": "Cat"}, "items.parquet: the columns 'Cat' and 'cat' have one name"),
        (ITEMS | {"category": "cat"}, "items.parquet: the columns 'Cat' and 'cat' have one name"),
    ],
)
def test_wrong_mappings(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    log(tmp_path, good=[1] * 10)
    (tmp_path / "empty").mkdir()
    names = ("category", "Cat", "cat", "a/b", "Title", "it's", '5"', "5\nstars")
    columns = {name: ["a", "b"] for name in names} | {"tags": [["a"], ["b"]]}
    write(tmp_path / "items.parquet", item_id=[0, 1], **columns)
    paths = {name: tmp_path / path for name, path in changes.items() if name in FILES}
    refused(own(tmp_path, **{**changes, **paths}), words)


@pytest.mark.parametrize("name", ["File_Row_Number", "_source_file", "_source_width"])
def test_a_column_that_hides_a_rows_place_is_refused(tmp_path: Path, name: str) -> None:
    log(tmp_path, **{name: [1] * 10})
    refused(own(tmp_path), f"log.parquet: column {name!r}: ", "rename the column")


def test_an_error_of_any_kind_in_duckdb_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        duckdb.sql("SELECT 99999999999999999::BIGINT * 1000000").fetchall()

    monkeypatch.setattr("dat_rec.data.prepare.stages.reject_bad_rows", fail)
    log(tmp_path)
    refused(own(tmp_path), "Overflow in multiplication")
