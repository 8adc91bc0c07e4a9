"""Amazon reviews: hand-made dumps of 2014 and 2018 against naive Python."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dat_rec.data.sources.amazon import Amazon
from tests.data.sources.prepared import Prepared, bad_rows, last_of_each_user, refused

SECOND = 1_000_000
DEEP = "[" * 100_000
COLUMNS_2023 = "user_id,parent_asin,rating,timestamp"
Review = tuple[str, str, int]  # user, item, time


def user_id(number: int) -> str:
    return f"A{number:013}"


def item_id(number: int) -> str:
    return f"B{number:09}"


def random_reviews(users: int = 40, items: int = 25, count: int = 260) -> list[Review]:
    """Skewed, so that the filter takes several rounds; few times, so that many are equal."""
    generator = np.random.default_rng(3)
    user = generator.integers(0, users, count)
    item = (items * generator.random(count) ** 2).astype(int)
    time = generator.integers(0, 50, count)
    return [(user_id(u), item_id(i), int(t)) for u, i, t in zip(user, item, time, strict=True)]


def five_core(reviews: list[Review], least: int) -> tuple[list[Review], int]:
    """What stays, and in how many rounds something was dropped."""
    rounds = 0
    while True:
        users = Counter(user for user, _, _ in reviews)
        items = Counter(item for _, item, _ in reviews)
        kept = [row for row in reviews if users[row[0]] >= least and items[row[1]] >= least]
        if len(kept) == len(reviews):
            return kept, rounds
        reviews, rounds = kept, rounds + 1


def write(path: Path, lines: list[str]) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def json_review(review: Review) -> str:
    return json.dumps(dict(zip(("reviewerID", "asin", "unixReviewTime"), review, strict=True)))


def json_2023(review: Review) -> str:
    """As the files of 2023: an item's colour in asin, milliseconds."""
    user, item, time = review
    fields = {"rating": 1.0, "title": "Nice", "asin": f"{item}-red", "parent_asin": item}
    return json.dumps({**fields, "user_id": user, "timestamp": time * 1000})


def ratings_2014(review: Review) -> str:
    user, item, time = review
    return f"{user},{item},5.0,{time}"


def ratings_2018(review: Review) -> str:
    user, item, time = review
    return f"{item},{user},5.0,{time}"


def ratings_2023(review: Review) -> str:
    user, item, time = review
    return f"{user},{item},5.0,{time * 1000},B1 B2"


def product(number: int, **more: Any) -> dict[str, Any]:
    return {"asin": item_id(number), "title": f"Thing {number}", "category": ["All", "X"], **more}


def metadata(folder: Path, *more: str) -> Path:
    products = [json.dumps(product(number)) for number in range(25)]
    return write(folder / "metadata.json", [*products, *more])


def options(folder: Path, reviews: Path, **changes: Any) -> Amazon:
    values = {"out": folder / "out", "reviews": reviews, "metadata": folder / "metadata.json"}
    return Amazon(**{**values, **changes})


def check(made: Prepared, reviews: list[Review], least: int = 5) -> None:
    """The filter and the split are those of a loop."""
    kept = [(u, i, time * SECOND) for u, i, time in five_core(reviews, least)[0]]
    assert (made.triples("train"), made.triples("test")) == last_of_each_user(kept)


@pytest.mark.parametrize(
    ("name", "header", "line"),
    [
        ("reviews.json", [], json_review),
        ("reviews.json.gz", [], json_review),
        ("ratings.csv", [], ratings_2014),
        ("ratings.csv.gz", [], ratings_2018),
        ("reviews.jsonl", [], json_2023),
        ("5core.csv", [COLUMNS_2023], ratings_2023),
        ("5core.csv", [f"\ufeff{COLUMNS_2023}, history"], ratings_2023),
    ],
)
def test_the_filter_and_the_split_are_those_of_a_loop(
    tmp_path: Path, name: str, header: list[str], line: Callable[[Review], str]
) -> None:
    metadata(tmp_path)
    reviews = random_reviews()
    lines = [*header, *map(line, reviews)]
    made = Prepared(options(tmp_path, write(tmp_path / name, lines)))
    kept, rounds = five_core(reviews, 5)
    assert rounds > 2
    assert 50 < len(kept) < len(reviews)
    check(made, reviews)
    assert set(made.users) == {user for user, _, _ in kept}
    assert set(made.items) == {item for _, item, _ in kept}
    assert f"{len(kept)} of {len(reviews)} interactions stayed" in made.schema.notes[1]
    assert made.schema.rows_read == len(reviews)


@pytest.mark.parametrize("least", [0, 1, 3])
def test_the_least_number_can_be_chosen(tmp_path: Path, least: int) -> None:
    metadata(tmp_path)
    reviews = random_reviews()
    lines = write(tmp_path / "ratings.csv", [ratings_2014(row) for row in reviews])
    check(Prepared(options(tmp_path, lines, minimum=least)), reviews, least)


def test_a_filter_that_leaves_nothing(tmp_path: Path) -> None:
    metadata(tmp_path)
    lines = [ratings_2014((user_id(row), item_id(row), row)) for row in range(9)]
    refused(options(tmp_path, write(tmp_path / "r.csv", lines)), "--minimum", "5 interactions")


def few_reviews(items: int) -> list[str]:
    return [json_review((user_id(row % 2), item_id(row % items), row)) for row in range(4 * items)]


def attributes(tmp_path: Path, products: list[Any], dump: Any = json.dumps) -> Prepared:
    write(tmp_path / "metadata.json", [dump(row) for row in products])
    reviews = write(tmp_path / "reviews.json", few_reviews(len(products)))
    return Prepared(options(tmp_path, reviews, minimum=0))


CUP_2014 = {
    "asin": item_id(0),
    "title": 'Bob\'s "best" cup — blue',
    "price": 12.5,
    "brand": "O'Neill",
    "categories": [["Home", "Cups", "Blue"], ["Gifts"]],
}
GARDEN_2014 = {"asin": item_id(1), "categories": [["Garden"]], "salesRank": {"Garden": 7}}
CUP_2023 = {
    "parent_asin": item_id(0),
    "main_category": "All Beauty",
    "title": "Cup",
    "price": 12.5,
    "store": "O'Neill",
    "categories": ["Beauty", "Cups"],
}
BOOK_2023 = {"main_category": "Books", "price": None, "categories": [], "parent_asin": item_id(1)}


@pytest.mark.parametrize(
    ("products", "dump", "first", "second"),
    [
        (
            [CUP_2014, GARDEN_2014],
            str,
            ('Bob\'s "best" cup — blue', "Home", ["Home", "Cups", "Blue"], "O'Neill"),
            (item_id(1), "Garden", ["Garden"], None),
        ),
        (
            [CUP_2023, BOOK_2023],
            json.dumps,
            ("Cup", "Beauty", ["Beauty", "Cups"], "O'Neill"),
            (item_id(1), "Books", ["Books"], None),
        ),
    ],
)
def test_the_metadata_of_2014_are_python_literals_and_of_2023_have_other_names(
    tmp_path: Path, products: list[Any], dump: Any, first: tuple[Any], second: tuple[Any]
) -> None:
    made = attributes(tmp_path, products, dump)
    names = ("title", "category_name", "categories", "brand")
    assert made.attributes(item_id(0), *names) == first
    assert made.attributes(item_id(1), *names, "price") == (*second, None)


@pytest.mark.parametrize(
    ("categories", "level", "expected"),
    [
        (
            [["Books", "Novels"], ["Books", "Poems", "Odes"], ["Books"], []],
            2,
            ["Novels", "Poems", None, None],
        ),
        ([["Books", "New"], ["Music", "New"]], 1, ["Books", "Music"]),
        *(([["X"], odd], 1, ["X", None]) for odd in ({"Toys": 1}, 5, "Toys")),
    ],
)
def test_the_category_is_the_first_level_that_differs_and_no_list_is_none(
    tmp_path: Path, categories: list[Any], level: int, expected: list[str | None]
) -> None:
    products = [product(number, category=levels) for number, levels in enumerate(categories)]
    made = attributes(tmp_path, products)
    found = [made.attributes(item_id(number), "category")[0] for number in range(len(products))]
    assert found == expected
    assert made.schema.notes[0] == f"category: level {level} of the product's categories"


PRICES: list[tuple[Any, Any]] = [
    ("$1,299.00", 1299.0),
    ("12.5", 12.5),
    (3, 3.0),
    ("$7.99 - $9.99", 7.99),
    ("", None),
]


def test_prices_in_all_spellings(tmp_path: Path) -> None:
    made = attributes(tmp_path, [product(n, price=price) for n, (price, _) in enumerate(PRICES)])
    buckets = [made.attributes(item_id(number), "price")[0] for number in range(5)]
    assert len(set(buckets)) == 5
    assert buckets.pop() is None
    for bucket, (_, price) in zip(buckets, PRICES, strict=False):
        start, stop = (float(edge) for edge in bucket.strip("[)").split(","))
        assert start <= price < stop


@pytest.mark.parametrize("dump", [json.dumps, str])
def test_half_of_a_surrogate_pair_in_a_text_is_replaced(
    tmp_path: Path, dump: Callable[[Any], str]
) -> None:
    words = {"title": "cup \ud83d", "brand": "\udc00 & Co", "category": ["A\ud83d", "cup ☕"]}
    made = attributes(tmp_path, [product(0, **words), product(1, category=["B"])], dump)
    assert made.attributes(item_id(0), *words) == ("cup ?", "? & Co", "A?")
    assert made.attributes(item_id(0), "categories") == (["A?", "cup ☕"],)
    assert made.schema.rejected == {}


@pytest.mark.parametrize("line", ['{"asin": "B9\\ud800", "title": "cup"}', '{"a": ' + DEEP])
def test_a_bad_product_is_counted(tmp_path: Path, line: str) -> None:
    metadata(tmp_path, line)
    reviews = write(tmp_path / "reviews.json", few_reviews(25))
    made = Prepared(options(tmp_path, reviews, minimum=0, max_rejected=0.04))
    assert made.schema.rejected == {"missing item_id in items": 1}
    assert set(made.items) == {item_id(number) for number in range(25)}


def test_books_are_told_by_their_isbn(tmp_path: Path) -> None:
    write(tmp_path / "metadata.json", [json.dumps({"asin": "000171287X"})])
    lines = [f"000171287X,{user_id(row)},5.0,{time}" for row in range(2) for time in range(3)]
    made = Prepared(options(tmp_path, write(tmp_path / "r.csv", lines), minimum=0))
    assert set(made.users) == {user_id(0), user_id(1)}
    assert set(made.items) == {"000171287X"}


def test_columns_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    write(tmp_path / "metadata.json", [json.dumps({"asin": "cup"})])
    reviews = write(tmp_path / "r.csv", [f"cup,ann,5.0,{time}" for time in range(3)])
    refused(options(tmp_path, reviews, minimum=0), str(reviews), "--csv-columns user-item")
    made = Prepared(options(tmp_path, reviews, minimum=0, csv_columns="item-user"))
    assert made.triples("train") == [("ann", "cup", 0), ("ann", "cup", SECOND)]
    refused(
        options(tmp_path, reviews, csv_columns="user-item", out=tmp_path / "other"),
        "r.csv: row 1: item not in the catalogue (value: ann)",
    )


GOOD = {"reviewerID": user_id(1), "asin": item_id(1), "unixReviewTime": 7}
BAD_LINES = [
    ("{ cut", "malformed line", "{ cut"),
    ("[1, 2]", "malformed line", "[1, 2]"),
    ("{[]: 1}", "malformed line", "{[]: 1}"),
    ('{"a": ' + DEEP, "malformed line", '{"a": ' + "[" * 74),
    (
        '{"reviewerID": "A\\ud800", "asin": "B000000001", "unixReviewTime": 1}',
        "malformed line",
        '{"reviewerID": "A\\ud800", "asin": "B000000001", "unixReviewTime": 1}',
    ),
    ("", "malformed line", ""),
    ("__import__('os')", "malformed line", "__import__('os')"),
    (json.dumps({**GOOD, "reviewerID": None}), "missing user_id", "nothing"),
    (json.dumps({**GOOD, "asin": ""}), "missing item_id", ""),
    (json.dumps({**GOOD, "unixReviewTime": "soon"}), "unparsable time", "soon"),
    (json.dumps({**GOOD, "unixReviewTime": 1.5}), "unparsable time", "1.5"),
    (json.dumps({**GOOD, "unixReviewTime": 10**17}), "unparsable time", str(10**17)),
    (json.dumps({"reviewerID": "A", "asin": item_id(1)}), "unparsable time", "nothing"),
    (json.dumps({**GOOD, "asin": "B99"}), "item not in the catalogue", "B99"),
]


def test_bad_reviews_are_located_and_counted_by_kind(tmp_path: Path) -> None:
    metadata(tmp_path)
    rows = random_reviews()
    lines = [json_review(row) for row in rows]
    bad = [line for line, _, _ in BAD_LINES]
    reviews = write(tmp_path / "reviews.json.gz", [*lines[:4], *bad, *lines[4:]])
    numbered = enumerate(BAD_LINES, 5)
    expected = [(str(reviews), row, kind, value) for row, (_, kind, value) in numbered]
    assert bad_rows(options(tmp_path, reviews)) == expected
    start = f"{reviews}: row 5: malformed line (value: {{ cut): correct or remove the row. "
    refused(options(tmp_path, reviews), f"{start}14 of 274 rows", "--max-rejected")
    made = Prepared(options(tmp_path, reviews, max_rejected=0.052))
    assert made.schema.rejected == Counter(kind for _, kind, _ in BAD_LINES)
    check(made, rows)


@pytest.mark.parametrize(("header", "line"), [([], ratings_2018), ([COLUMNS_2023], ratings_2023)])
def test_bad_ratings_and_products(
    tmp_path: Path, header: list[str], line: Callable[[Review], str]
) -> None:
    metadata(tmp_path, json.dumps(product(3)), "{ cut")
    lines = [*header, *map(line, random_reviews())]
    lines[6] = "A1,B1"
    reviews = write(tmp_path / "ratings.csv", lines)
    refused(options(tmp_path, reviews), "metadata.json: row 26: duplicate item_id", "2 of 27 rows")
    metadata(tmp_path)
    words = f"ratings.csv: row {7 - len(header)}: line without 4 fields (value: A1,B1)"
    refused(options(tmp_path, reviews, max_rejected=0.0), words, "1 of 260 rows")
    metadata(tmp_path, json.dumps(product(3)), "{ cut")
    assert Prepared(options(tmp_path, reviews, max_rejected=0.1)).schema.rejected == {
        "duplicate item_id in items": 1,
        "line without 4 fields": 1,
        "missing item_id in items": 1,
    }


@pytest.mark.parametrize("name", ["ratings.csv.gz", "reviews.json.gz", "metadata.json.gz"])
def test_a_damaged_download(tmp_path: Path, name: str) -> None:
    rows = random_reviews()
    lines = [(ratings_2014 if "csv" in name else json_review)(row) for row in rows]
    reviews = write(tmp_path / ("ratings.csv.gz" if "csv" in name else "reviews.json.gz"), lines)
    products = [json.dumps(product(number)) for number in range(25)]
    path = write(tmp_path / "metadata.json.gz", products)
    wrong = options(tmp_path, reviews, metadata=path)
    path = tmp_path / name
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-20],
        b"no gzip",
        whole[:40] + b"\xff" * 9 + whole[40:],
        whole[:40] + b"\xff" * 40 + whole[80:],
    ):
        path.write_bytes(damaged)
        message = refused(wrong)
        assert message.startswith(f"{path}: cannot be read (")
        assert message.endswith("download it anew")
    path.write_bytes(whole)
    assert Prepared(wrong).schema.rejected == {}


LARGE = "B" * 140_000
WRONG_FILES: dict[str, list[str]] = {
    "reviews.json": few_reviews(2),
    "empty.json": [],
    "field.csv": [ratings_2014((user_id(1), item_id(1), 1)), f"{user_id(1)},{LARGE},5.0,1"],
    "quote.csv": ['"', LARGE],
}


@pytest.mark.parametrize(
    ("reviews", "products", "words"),
    [
        ("none.json", "metadata.json", "none.json: no such file or folder"),
        ("reviews.json", "none.json", "none.json: no such file or folder"),
        ("folder", "metadata.json", "folder: cannot be read (Is a directory)"),
        ("reviews.json", "folder", "folder: cannot be read (Is a directory)"),
        ("empty.json", "metadata.json", "interactions are empty"),
        ("field.csv", "metadata.json", "field.csv: line 2: field larger than field limit"),
        ("quote.csv", "metadata.json", "quote.csv: line 2: field larger than field limit"),
        ("metadata.json", "reviews.json", "reviews.json: row 3: duplicate item_id in items"),
    ],
)
def test_wrong_files(tmp_path: Path, reviews: str, products: str, words: str) -> None:
    metadata(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, lines in WRONG_FILES.items():
        write(tmp_path / name, lines)
    files = {"reviews": tmp_path / reviews, "metadata": tmp_path / products}
    refused(options(tmp_path, **files, csv_columns="user-item"), words)
