"""Features of users and items that bear one name are told apart."""

from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, own, refused, write

USERS = {"country": ["de", "fr", "de"], "age": [20, 30, 40], "tags": ["x|y"] * 3}
ITEMS = {"country": ["cn", "de"], "age": [1.5, 2.5], "tags": ["z"] * 2}


def both(folder: Path, users: dict[str, Any] = USERS, items: dict[str, Any] = ITEMS) -> Any:
    """The paths of users and items of a log of three and two."""
    write(
        folder / "log.parquet",
        user_id=[row % 3 for row in range(12)],
        item_id=[row % 2 for row in range(12)],
        time=list(range(12)),
    )
    return {
        "users": write(folder / "users.parquet", user_id=[0, 1, 2], **users),
        "items": write(folder / "items.parquet", item_id=[0, 1], **items),
    }


def test_one_name_on_both_sides_makes_two_features(tmp_path: Path) -> None:
    paths = both(tmp_path)
    features = {"user_features": ("country",), "item_features": ("country",)}
    made = Prepared(own(tmp_path, **paths, **features))
    names = {feature.name: (feature.side, feature.table) for feature in made.schema.features}
    assert names["user_country"] == ("query", "user_country")
    assert names["item_country"] == ("item", "item_country")
    assert "country" not in names
    assert [made.users[user]["user_country"] for user in range(3)] == USERS["country"]
    assert [made.items[item]["item_country"] for item in range(2)] == ITEMS["country"]
    for row in made.train:
        assert row["user_country"] == USERS["country"][row["user_id"]]
        assert row["item_country"] == ITEMS["country"][row["item_id"]]
    said = "country: users and items have a feature of that name: they are user_country and item_"
    assert any(note.startswith(said) for note in made.schema.notes)
    assert validate(tmp_path / "out") == []


def test_the_category_may_be_such_a_name(tmp_path: Path) -> None:
    made = Prepared(own(tmp_path, **both(tmp_path), user_features=("country",), category="country"))
    assert made.schema.category == "item_country"
    assert made.items[0]["category_name"] == "cn"
    for row in made.train:
        assert row["history_category"] == [ITEMS["country"][item] for item in row["history"]]
    assert validate(tmp_path / "out") == []


def test_users_may_have_a_category_where_items_have_none(tmp_path: Path) -> None:
    paths = both(tmp_path, {"category": ["a", "b", "a"]})
    made = Prepared(own(tmp_path, **paths, user_features=("category",)))
    assert made.schema.category == "item_category"
    assert made.users[1]["user_category"] == "b"


def test_capitals_tell_no_two_names_apart(tmp_path: Path) -> None:
    paths = both(tmp_path, {"Country": ["de", "fr", "de"]})
    chosen = {"user_features": ("Country",), "item_features": ("country",)}
    made = Prepared(own(tmp_path, **paths, **chosen))
    assert (made.users[1]["user_Country"], made.items[0]["item_country"]) == ("fr", "cn")
    assert validate(tmp_path / "out") == []


def test_an_option_names_the_columns_of_both_sides_or_one_feature(tmp_path: Path) -> None:
    paths = both(tmp_path)
    sides = {"user_features": ("age", "tags"), "item_features": ("age", "tags")}
    more = {"numbers": ("user_age",), "separator": ("tags=|",)}
    made = Prepared(own(tmp_path, **paths, **sides, **more))
    assert made.users[0]["user_age"] == "[-inf, 30)"
    assert made.items[0]["item_age"] == "[-inf, 2.5)"
    assert (made.users[0]["user_tags"], made.items[0]["item_tags"]) == (["x", "y"], ["z"])
    of_one = own(
        tmp_path, **paths, **sides, separator=("user_tags=|",), out=tmp_path / "b", numbers=("age",)
    )
    made = Prepared(of_one)
    assert (made.users[0]["user_tags"], made.items[0]["item_tags"]) == (["x", "y"], "z")


@pytest.mark.parametrize(
    ("users", "items", "words"),
    [
        (("country", "user_country"), ("country",), "feature 'user_country' is named twice"),
        (("id",), ("id",), "attribute 'item_id': the name is reserved"),
        (("country", "country"), (), "feature 'country' is named twice"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, users: tuple[str, ...], items: tuple[str, ...], words: str
) -> None:
    more = {"id": ["a", "b", "c"], "user_country": ["a", "b", "c"]}
    paths = both(tmp_path, {**USERS, **more}, {**ITEMS, "id": ["a", "b"]})
    refused(own(tmp_path, **paths, user_features=users, item_features=items), words)
