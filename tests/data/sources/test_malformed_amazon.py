"""Malformed lines and files of Amazon reviews: counted, or refused in one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.amazon import Amazon
from dat_rec.errors import UserError

ROWS = 40
ITEMS = [f"B{number:09}" for number in range(5)]
REVIEWS = [(f"A{row % 4}", ITEMS[row % 5], 1_300_000_000 + row) for row in range(ROWS)]
DEEP = "[" * 100_000


def review_lines() -> list[str]:
    names = ("reviewerID", "asin", "unixReviewTime")
    return [json.dumps(dict(zip(names, review, strict=True))) for review in REVIEWS]


def ratings() -> list[str]:
    return [f"{user},{item},5.0,{time}" for user, item, time in REVIEWS]


def product(asin: str, **fields: Any) -> str:
    return json.dumps({"asin": asin, "title": asin, "category": ["Toys", "Balls"], **fields})


def write(path: Path, lines: list[str]) -> Path:
    content = "\n".join([*lines, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def run(folder: Path, reviews: Path | None = None, *products: str, **options: Any) -> Schema:
    metadata = folder / "metadata.json"
    if not metadata.exists():
        write(metadata, [*map(product, ITEMS), *products])
    return prepare(
        Amazon(
            reviews=reviews or write(folder / "reviews.json", review_lines()),
            metadata=metadata,
            out=folder / "out",
            minimum=0,
            overwrite=True,
            **options,
        )
    )


def refusal(folder: Path, reviews: Path | None = None, *products: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        run(folder, reviews, *products, **options)
    message = str(error.value)
    assert "\n" not in message
    assert "disk" not in message
    return message


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ('{"reviewerID": "A\\ud800", "asin": "B000000001", "unixReviewTime": 1}', "", '{"rev'),
        ('{"a": ' + DEEP, "", '{"a": [[['),
        ("{[]: 1}", "", "{[]: 1}"),
        ("[1]", "", "[1]"),
        (
            '{"reviewerID": "A1", "asin": "B000000001", "unixReviewTime": 99999999999999999}',
            "unparsable time",
            "99999999999999999",
        ),
        (
            '{"reviewerID": "A1", "asin": "B000000001", "unixReviewTime": 1.5}',
            "unparsable time",
            "1.5",
        ),
    ],
)
def test_a_bad_review_is_shown_and_counted(
    tmp_path: Path, line: str, kind: str, value: str
) -> None:
    kind = kind or "malformed line"
    reviews = write(tmp_path / "reviews.json", [*review_lines(), line])
    message = refusal(tmp_path, reviews)
    assert message.startswith(f"{reviews}: row {ROWS + 1}: {kind} (value: {value}")
    schema = run(tmp_path, reviews, max_rejected=0.5)
    assert schema.rejected == {kind: 1}
    assert schema.examples + schema.tests == ROWS


@pytest.mark.parametrize("line", ['{"asin": "B9", "title": "\\ud800"}', '{"a": ' + DEEP])
def test_a_bad_product_is_counted(tmp_path: Path, line: str) -> None:
    schema = run(tmp_path, None, line, max_rejected=0.5)
    assert schema.rejected == {"missing item_id in items": 1}
    assert schema.items == len(ITEMS)


@pytest.mark.parametrize("levels", [{"Toys": 1}, 5, "Toys"])
def test_categories_that_are_no_list_are_unknown(tmp_path: Path, levels: Any) -> None:
    run(tmp_path, None, product("B999999999", category=levels))
    rows = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    names = {row["item_id"]: row["category_name"] for row in rows}
    assert names == {**dict.fromkeys(ITEMS, "Balls"), "B999999999": "(unknown)"}


def test_a_field_beyond_the_csv_limit_is_refused(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.csv", [*ratings(), "A1," + "B" * 140_000 + ",5.0,1"])
    message = refusal(tmp_path, reviews)
    assert message.startswith(f"{reviews}: line {ROWS + 1}: field larger than field limit")


@pytest.mark.parametrize("name", ["r.csv.gz", "r.json.gz"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, name: str) -> None:
    reviews = write(tmp_path / name, ratings() if "csv" in name else review_lines())
    whole = reviews.read_bytes()
    assert run(tmp_path, reviews).examples == ROWS - 4
    for content in (b"no gzip", whole[:-20], whole[:40] + b"\xff" * 40 + whole[80:]):
        reviews.write_bytes(content)
        message = refusal(tmp_path, reviews)
        assert message.startswith(f"{reviews}: cannot be read (")
        assert message.endswith("download it anew")


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    message = refusal(tmp_path, tmp_path / "reviews")
    assert message.startswith(f"{tmp_path / 'reviews'}: cannot be read (Is a directory)")
    (tmp_path / "metadata.json").unlink(missing_ok=True)
    (tmp_path / "metadata.json").mkdir()
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / 'metadata.json'}: cannot be read (Is a directory)")
