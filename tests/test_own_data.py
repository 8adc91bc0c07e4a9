"""The recipes of docs/own_data.md run as they stand there, on logs of those shapes."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from dat_rec.commands import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.split_columns import WORDS
from dat_rec.data.validate.validate import validate
from dat_rec.install import CHECKOUT
from tests.data.sources.prepared import write

PAGE = (CHECKOUT / "docs" / "own_data.md").read_text()
ROWS = range(600)
USERS, ITEMS = [row * row % 41 for row in ROWS], [row % 23 for row in ROWS]


def recipe(log: str) -> Sequence[str]:
    """The words of the page's command that reads the log, behind ``dat-rec prepare``."""
    code = re.sub(r"\\\n +", "", PAGE)
    (line,) = re.findall(rf"^    dat-rec prepare (parquet --interactions {log} .*)", code, re.M)
    return shlex.split(line)


def made(folder: Path, log: str, monkeypatch: pytest.MonkeyPatch) -> Schema:
    monkeypatch.chdir(folder)
    prepare.run(recipe(log))
    assert validate(folder / "data") == []
    return Schema.load(folder / "data")


def test_ratings_as_movielens_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns: dict[str, Any] = {"userId": USERS, "movieId": ITEMS}
    columns |= {"rating": [row % 5 + 1.0 for row in ROWS], "timestamp": list(ROWS)}
    write(tmp_path / "ratings.parquet", **columns)
    titles, genres = [f"film {item}" for item in range(23)], ["Comedy|Drama", "War"] * 11 + [None]
    write(tmp_path / "movies.parquet", movieId=list(range(23)), title=titles, genres=genres)
    schema = made(tmp_path, "ratings.parquet", monkeypatch)
    assert schema.feature("genres").multi_valued
    assert schema.feature("genres").rows == 4
    good = [user for user, stars in zip(USERS, columns["rating"], strict=True) if stars >= 4]
    asked = sum(good.count(user) >= 3 for user in set(good))
    assert schema.tests == schema.validation == asked


def test_check_ins_as_gowalla_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["test" if row % 5 == 0 else "train" for row in ROWS]
    users, items = [row // 25 for row in ROWS], [row % 25 for row in ROWS]
    write(tmp_path / "checkins.parquet", user_id=users, item_id=items, split=said)
    schema = made(tmp_path, "checkins.parquet", monkeypatch)
    assert (schema.tests, schema.validation, schema.examples) == (120, 48, 432)
    assert schema.histories == "others"


def test_events_of_many_shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (10, 11, 12, 29):
        for shop in (7, 8):
            folder = tmp_path / "events" / f"day=2026-11-{day}" / f"shop={shop}"
            folder.mkdir(parents=True)
            rows = [row for row in ROWS if row % 4 == day % 4 and row % 3 == shop - 6]
            columns: dict[str, Any] = {
                "customer": [USERS[row] for row in rows],
                "article": [ITEMS[row] for row in rows],
                "time": rows,
                "event": ["purchase", "view"] * (len(rows) // 2),
            }
            write(folder / "0.parquet", **{name: of[: len(rows)] for name, of in columns.items()})
    schema = made(tmp_path, "events", monkeypatch)
    rows = [row for row in ROWS if row % 4 != 1 and row % 3]
    ids = set(pq.read_table(tmp_path / "data" / "users.parquet")["user_id"].to_pylist())
    assert ids <= {json.dumps([row % 3 + 6, USERS[row]], separators=(",", ":")) for row in rows}
    assert {json.loads(one)[0] for one in ids} == {7, 8}
    assert schema.examples + schema.tests == 150
    query = "SELECT count(*) FROM 'data/users.parquet' WHERE (user_id ->> 0)::BIGINT = 7"
    assert duckdb.sql(query).fetchall() == [(sum(one.startswith("[7,") for one in ids),)]


def test_the_page_names_all_that_a_column_may_say() -> None:
    (said,) = re.findall(r"(train, validation \(.*\) or test), in small", PAGE)
    assert set(re.findall(r"\w+", said)) - {"or"} <= {
        word for one in WORDS.values() for word in one
    }
