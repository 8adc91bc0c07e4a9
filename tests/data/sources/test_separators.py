"""Text that holds several values: split into tags at its separator, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from dat_rec.commands import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.separators import Separators
from dat_rec.data.validate.validate import validate
from dat_rec.errors import UserError
from tests.data.sources.prepared import Prepared, own, refused, write

GENRES = ["Comedy|Drama", " War | Drama|", None, "", "Drama||Drama", " | "]
LISTS = [["Comedy", "Drama"], ["War", "Drama"], [], [], ["Drama"], []]


def log(folder: Path, **columns: Any) -> Path:
    """A log of six items, and items.parquet with the columns."""
    write(
        folder / "log.parquet",
        user_id=[row % 4 for row in range(24)],
        item_id=[row % 6 for row in range(24)],
        time=list(range(24)),
    )
    return write(folder / "items.parquet", item_id=list(range(6)), **columns)


def test_text_is_split_as_a_list_is_read(tmp_path: Path) -> None:
    """An empty text, and nothing between two separators, are no value."""
    items = log(tmp_path, genres=GENRES, lists=LISTS)
    options = {"items": items, "item_features": ("genres", "lists")}
    made = Prepared(own(tmp_path, **options, separator=("genres=|",)))
    assert made.schema.feature("genres").multi_valued
    assert made.schema.feature("genres").rows == made.schema.feature("lists").rows == 4
    for number in range(6):
        assert made.items[number]["genres"] == made.items[number]["lists"] == LISTS[number]
    assert {tuple(row["genres"]) for row in made.train} == {tuple(one) for one in LISTS}
    assert "genres: several values, split at '|'" in made.schema.notes
    assert validate(tmp_path / "out") == []


def test_one_separator_counts_for_all_text_but_the_category(tmp_path: Path) -> None:
    """Columns of other types stay what they are, and a column may have its own."""
    items = log(
        tmp_path,
        shelf=["a|b"] * 6,
        genres=["x|y"] * 6,
        year=[1990 + row for row in range(6)],
        makers=["p; q"] * 6,
    )
    features = ("genres", "year", "makers")
    made = Prepared(
        own(
            tmp_path,
            items=items,
            category="shelf",
            item_features=features,
            separator=("|", "makers=;"),
        )
    )
    assert made.attributes(0, "shelf", *features) == ("a|b", ["x", "y"], "1990", ["p", "q"])


def test_users_have_text_of_several_values_too(tmp_path: Path) -> None:
    log(tmp_path)
    users = write(tmp_path / "users.parquet", user_id=list(range(4)), langs=["de,en"] * 4)
    made = Prepared(own(tmp_path, users=users, user_features=("langs",), separator=(",",)))
    assert made.users[2]["langs"] == ["de", "en"]
    assert made.train[0]["langs"] == ["de", "en"]


@pytest.mark.parametrize(
    ("given", "everywhere", "own_ones"),
    [
        (["|"], "|", {}),
        (["="], "=", {}),
        ([" "], " ", {}),
        (["'"], "'", {}),
        (["a==", "b= - "], None, {"a": "=", "b": " - "}),
        ([", ", "a=|"], ", ", {"a": "|"}),
    ],
)
def test_what_the_option_says(
    given: list[str], everywhere: str | None, own_ones: dict[str, str]
) -> None:
    assert Separators.parse(given) == Separators(everywhere, own_ones)


@pytest.mark.parametrize(
    ("separator", "text"), [("'", "x'y"), ("\\", "x\\y"), (".", "x.y"), ("||", "x||y")]
)
def test_a_separator_is_taken_by_its_letters(tmp_path: Path, separator: str, text: str) -> None:
    items = log(tmp_path, tags=[text] * 6)
    made = Prepared(own(tmp_path, items=items, item_features=("tags",), separator=(separator,)))
    assert made.items[0]["tags"] == ["x", "y"]


def test_a_separator_that_no_row_holds_is_said(tmp_path: Path) -> None:
    items = log(tmp_path, tags=["a;b"] * 6)
    made = Prepared(own(tmp_path, items=items, item_features=("tags",), separator=("|",)))
    words = "warning: --separator: no row of 'tags' holds '|': each text is one value"
    assert any(note.startswith(words) for note in made.schema.notes)
    assert made.items[0]["tags"] == ["a;b"]


@pytest.mark.parametrize("given", [[""], ["genres="], ["|", ""]])
def test_an_empty_separator_is_refused(given: list[str]) -> None:
    with pytest.raises(UserError, match="the separator is empty"):
        Separators.parse(given)


@pytest.mark.parametrize("given", [["|", ";"], ["a=|", "a=;"]])
def test_two_separators_of_one_column_are_refused(given: list[str]) -> None:
    with pytest.raises(UserError, match="there is one already"):
        Separators.parse(given)


@pytest.mark.parametrize(
    ("separator", "words"),
    [
        (("year=|",), "--separator year=|: {items}: the column is BIGINT: name a column of text"),
        (("price=|",), "--separator price=|: {items}: the column is DOUBLE"),
        (("lists=|",), "--separator lists=|: {items}: the column is a list already"),
        (("genre=|",), "--separator genre=|: 'genre' is not among the features"),
        (("genres",), "--separator genres: names a column and no separator: write e.g. genres='|'"),
        (("shelf=|",), "--separator shelf=…: is the category, which has one value"),
        (("genres=|", ";"), "--separator ';': no feature without one of its own is a column of"),
    ],
)
def test_what_cannot_be_split_is_refused(
    tmp_path: Path, separator: tuple[str, ...], words: str
) -> None:
    items = log(
        tmp_path, shelf=["a"] * 6, genres=GENRES, lists=LISTS, year=[1990] * 6, price=[0.5] * 6
    )
    features = ("genres", "lists", "year", "price")
    refused(
        own(tmp_path, items=items, category="shelf", item_features=features, separator=separator),
        words.format(items=items),
    )


def test_the_command_line_takes_several_separators(tmp_path: Path) -> None:
    items = log(tmp_path, genres=GENRES, makers=["p;q"] * 6)
    words = ["parquet", "--out", tmp_path / "out", "--interactions", tmp_path / "log.parquet"]
    words += ["--items", items, "--item-features", "genres", "makers", "--separator"]
    prepare.run([*map(str, words), "|", "makers=;"])
    schema = Schema.load(tmp_path / "out")
    assert [schema.feature(name).rows for name in ("genres", "makers")] == [4, 3]
    with pytest.raises(UserError, match="--separator is given twice: give all its values behind"):
        prepare.run([*map(str, words), "|", "--separator", "makers=;"])
