"""Ids that are unique within a group alone: their columns together are one id."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, bad_rows, by_time, own, refused, write

ROWS = 24
STORES = ["north" if row % 2 else "south" for row in range(ROWS)]
CUSTOMERS = [row % 3 for row in range(ROWS)]
SKUS = [f"s{row % 4}" for row in range(ROWS)]
TIMES = list(range(ROWS))
IDS = {"user_id": "store,customer", "item_id": "store,sku"}


def log(folder: Path, **changes: Any) -> Path:
    columns = {"store": STORES, "customer": CUSTOMERS, "sku": SKUS, "time": TIMES, **changes}
    return write(folder / "log.parquet", **columns)


def expected(rows: range) -> list[tuple[Any, ...]]:
    """User, item and time, as a JSON array is written by hand."""
    return by_time(
        (f'["{STORES[row]}",{CUSTOMERS[row]}]', f'["{STORES[row]}","{SKUS[row]}"]', row)
        for row in rows
    )


def test_columns_make_one_id_together(tmp_path: Path) -> None:
    log(tmp_path)
    made = Prepared(own(tmp_path, **IDS, test_from="20"))
    assert made.triples("train") == expected(range(20))
    assert made.triples("test") == expected(range(20, ROWS))
    assert len(made.users) == 6
    item = '["north","s1"]'
    assert made.items[item]["title"] == item
    assert validate(tmp_path / "out") == []


def test_the_tables_have_the_same_columns(tmp_path: Path) -> None:
    log(tmp_path)
    stores, numbers = ["north"] * 3 + ["south"] * 3, [0, 1, 2] * 2
    users = write(tmp_path / "users.parquet", store=stores, customer=numbers, age=list("abcdef"))
    stores, skus = ["north"] * 2 + ["south"] * 2, ["s1", "s3", "s0", "s2"]
    items = write(tmp_path / "items.parquet", store=stores, sku=skus, name=list("wxyz"))
    tables = {"users": users, "items": items, "title": "name", "category": "name"}
    made = Prepared(own(tmp_path, **IDS, **tables, user_features=("age",)))
    assert made.users['["south",1]']["age"] == "e"
    assert made.items['["north","s3"]']["title"] == "x"
    assert len(made.users) == 6
    assert len(made.items) == 4
    assert made.schema.rejected == {}
    assert validate(tmp_path / "out") == []


def test_a_column_of_the_folders_may_be_part_of_an_id(tmp_path: Path) -> None:
    for store in ("north", "south"):
        rows = [row for row in range(ROWS) if STORES[row] == store]
        folder = tmp_path / "log" / f"day={int(store == 'north')}" / f"store={store}"
        folder.mkdir(parents=True)
        columns = {"customer": CUSTOMERS, "sku": SKUS, "time": TIMES}
        write(
            folder / "part.parquet", **{name: [of[r] for r in rows] for name, of in columns.items()}
        )
    parts = {"interactions": tmp_path / "log", **IDS, "test_from": "20"}
    assert Prepared(own(tmp_path, **parts)).triples("train") == expected(range(20))
    made = Prepared(own(tmp_path, **parts, to="day=0", out=tmp_path / "south"))
    assert made.triples("train") == expected(range(0, 20, 2))


def test_hashes_in_an_id_are_read_as_text(tmp_path: Path) -> None:
    log(tmp_path, customer=[-(number + 1) for number in CUSTOMERS])
    made = Prepared(own(tmp_path, **IDS, text_ids=True))
    assert '["south","-1"]' in made.users


@pytest.mark.parametrize(
    ("column", "value", "kind", "shown"),
    [
        ("store", None, "missing user_id", "[null,2]"),
        ("store", "", "missing user_id", '["",2]'),
        ("customer", None, "missing user_id", '["north",null]'),
        ("customer", -1, "negative user_id", '["north",-1]'),
        ("sku", None, "missing item_id", '["north",null]'),
        ("sku", "", "missing item_id", '["north",""]'),
    ],
)
def test_an_id_with_a_part_missing_is_a_bad_row(
    tmp_path: Path, column: str, value: Any, kind: str, shown: str
) -> None:
    values: list[Any] = {"store": STORES, "customer": CUSTOMERS, "sku": SKUS}[column][:]
    values[5] = value
    path = log(tmp_path, **{column: values})
    assert bad_rows(own(tmp_path, **IDS)) == [(str(path), 6, kind, shown)]
    refused(own(tmp_path, **IDS), f"{path}: row 6: {kind} (value: {shown})")
    made = Prepared(own(tmp_path, **IDS, max_rejected=0.1))
    assert made.schema.rejected == {kind: 1}
    assert len(made.train) + len(made.test) == ROWS - 1


def test_a_bad_row_of_the_tables_is_located(tmp_path: Path) -> None:
    log(tmp_path)
    stores, skus = ["north", None, "south", "south"], ["s1", "s3", "s0", "s0"]
    items = write(tmp_path / "items.parquet", store=stores, sku=skus)
    words = f'{items}: row 2: missing item_id in items (value: [null,"s3"])'
    refused(own(tmp_path, **IDS, items=items), words, "2 of 4 rows of the items")
    made = Prepared(own(tmp_path, **IDS, items=items, max_rejected=0.9))
    assert made.schema.rejected["missing item_id in items"] == 1
    assert made.schema.rejected["duplicate item_id in items"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"user_id": "store,who"}, "column 'who' is missing: it has store, customer, sku, time"),
        ({"user_id": "store,"}, "--user-id store,: a name is empty"),
        ({"item_id": "sku,sku"}, "--item-id sku,sku: 'sku' stands there twice"),
        ({"item_id": "store,weight"}, "weight 0.5 is no whole number"),
    ],
)
def test_columns_that_make_no_id_are_refused(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    log(tmp_path, weight=[0.5] * ROWS)
    refused(own(tmp_path, **{**IDS, **changes}), words)


def test_text_in_one_table_and_integers_in_the_other_are_refused(tmp_path: Path) -> None:
    path = log(tmp_path)
    numbers = pa.array(["0", "1", "2"])
    users = write(tmp_path / "users.parquet", store=["north"] * 3, customer=numbers)
    refused(
        own(tmp_path, **IDS, users=users),
        f"id column 'customer' is VARCHAR in {users} and BIGINT in {path}: write both with",
    )


def test_a_name_with_a_comma_in_one_table_alone_is_refused(tmp_path: Path) -> None:
    log(tmp_path, store=list(STORES))
    users = write(tmp_path / "users.parquet", **{"store,customer": ["a"], "x": ["b"]})
    refused(own(tmp_path, **IDS, users=users), "the id is of the columns store,customer in ")
