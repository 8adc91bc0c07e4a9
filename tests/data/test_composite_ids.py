"""Ids of several columns: one text each, alike in DuckDB and Python, from which all come back."""

import json
from typing import Any

import duckdb
import pytest

from dat_rec.data.composite_ids import array_sql, columns_of_id, decode, encode
from dat_rec.errors import UserError

VALUES: list[tuple[Any, ...]] = [
    ("north", 17),
    (0, 0),
    (2**62, -(2**62)),
    ("1", 1),
    ('a"b', "c\\d"),
    ("a,b", "c"),
    ("a", "b,c"),
    ("[]", " "),
    ("\\u001f", "\x1f\x00\x7f\n"),
    ("日本", "😀/\u2028"),
    ("", "x", 5),
]


@pytest.mark.parametrize("values", VALUES)
def test_duckdb_and_python_write_the_same_json(values: tuple[Any, ...]) -> None:
    query = f"SELECT {array_sql(['?'] * len(values))}"
    found = duckdb.sql(query, params=[*values]).fetchall()
    assert found == [(encode(values),)]
    assert tuple(json.loads(encode(values))) == decode(encode(values)) == values


def test_no_two_ids_are_one() -> None:
    assert len({encode(values) for values in VALUES}) == len(VALUES)


@pytest.mark.parametrize(
    "text", ["u1", "7", "[7]", "[]", '["a", 7]', '["a",1.5]', '["a",null]', '["a",true]', '{"a":1}']
)
def test_other_texts_are_no_such_id(text: str) -> None:
    assert decode(text) is None


def test_a_column_that_exists_is_a_name() -> None:
    assert columns_of_id("--user-id", "a,b", {"a,b", "a", "b"}.__contains__) == ("a,b",)
    assert columns_of_id("--user-id", "a, b,c", {"a", "b"}.__contains__) == ("a", "b", "c")
    assert columns_of_id("--user-id", "a", set[str]().__contains__) == ("a",)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,", "a name is empty"), (",", "empty"), ("a,b,a", "'a' stands there tw")],
)
def test_malformed_lists_of_columns_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        columns_of_id("--item-id", text, set[str]().__contains__)
