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
from tests.data.sources.prepared import Prepared, refused

SECOND = 1_000_000
DEEP = "[" * 100_000
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


def last_of_each_user(reviews: list[Review]) -> tuple[list[Review], list[Review]]:
    """Train and test; of equal times the later line is the last; an only one is for training."""
    last: dict[str, int] = {}
    for place, (user, _, time) in enumerate(reviews):
        if user not in last or time >= reviews[last[user]][2]:
            last[user] = place
    counts = Counter(user for user, _, _ in reviews)
    held = {place for user, place in last.items() if counts[user] > 1}
    train = [row for place, row in enumerate(reviews) if place not in held]
    return train, [reviews[place] for place in sorted(held)]


def by_time(reviews: list[Review]) -> list[Review]:
    rows = [(user, item, time * SECOND) for user, item, time in reviews]
    return sorted(rows, key=lambda row: (row[2], row[0], row[1]))


def write(path: Path, lines: list[str]) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def json_review(review: Review) -> str:
    user, item, time = review
    return json.dumps({"reviewerID": user, "asin": item, "overall": 1.0, "unixReviewTime": time})


def ratings_2014(review: Review) -> str:
    user, item, time = review
    return f"{user},{item},5.0,{time}"


def ratings_2018(review: Review) -> str:
    user, item, time = review
    return f"{item},{user},5.0,{time}"


def product(number: int, **more: Any) -> dict[str, Any]:
    return {"asin": item_id(number), "title": f"Thing {number}", "category": ["All", "X"], **more}


def json_2023(review: Review) -> str:
    """As the files of 2023: an item's colour in asin, milliseconds."""
    user, item, time = review
    fields = {"rating": 1.0, "title": "Nice", "asin": f"{item}-red", "parent_asin": item}
    return json.dumps({**fields, "user_id": user, "timestamp": time * 1000})


def metadata(folder: Path, items: int = 25) -> Path:
    return write(folder / "metadata.json", [json.dumps(product(number)) for number in range(items)])


def options(folder: Path, reviews: Path, **changes: Any) -> Amazon:
    values: dict[str, Any] = {
        "out": folder / "out",
        "reviews": reviews,
        "metadata": folder / "metadata.json",
    }
    return Amazon(**{**values, **changes})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("reviews.json", json_review),
        ("reviews.json.gz", json_review),
        ("ratings.csv", ratings_2014),
        ("ratings.csv.gz", ratings_2018),
        ("reviews.jsonl", json_2023),
        ("reviews.jsonl.gz", json_2023),
    ],
)
def test_the_filter_and_the_split_are_those_of_a_loop(
    tmp_path: Path, name: str, line: Callable[[Review], str]
) -> None:
    metadata(tmp_path)
    reviews = random_reviews()
    made = Prepared(options(tmp_path, write(tmp_path / name, [line(row) for row in reviews])))
    kept, rounds = five_core(reviews, 5)
    assert rounds > 2
    assert 50 < len(kept) < len(reviews)
    train, test = last_of_each_user(kept)
    assert made.triples("train") == by_time(train)
    assert made.triples("test") == by_time(test)
    assert set(made.users) == {user for user, _, _ in kept}
    assert set(made.items) == {item for _, item, _ in kept}
    assert f"{len(kept)} of {len(reviews)} interactions stayed" in made.schema.notes[1]
    assert made.schema.rows_read == len(reviews)


@pytest.mark.parametrize("header", ["user_id,parent_asin,rating,timestamp", "\ufeff{}, history"])
def test_the_csv_of_2023_has_a_header(tmp_path: Path, header: str) -> None:
    metadata(tmp_path)
    reviews = random_reviews()
    lines = [f"{user},{item},5.0,{time * 1000},B1 B2" for user, item, time in reviews]
    header = header.format("user_id,parent_asin,rating,timestamp")
    made = Prepared(options(tmp_path, write(tmp_path / "5core.csv", [header, *lines])))
    train, test = last_of_each_user(five_core(reviews, 5)[0])
    assert made.triples("train") == by_time(train)
    assert made.triples("test") == by_time(test)
    assert made.schema.rows_read == len(reviews)
    lines[6] = "A1,B1"
    write(tmp_path / "5core.csv", [header, *lines])
    changes = {"max_rejected": 0.0, "out": tmp_path / "b"}
    message = refused(options(tmp_path, tmp_path / "5core.csv", **changes))
    assert "5core.csv: row 7: line without 4 fields (value: A1,B1)" in message


def test_the_metadata_of_2023(tmp_path: Path) -> None:
    products = [
        {
            "main_category": "All Beauty",
            "title": "Cup",
            "price": 12.5,
            "store": "O'Neill",
            "categories": ["Beauty", "Cups"],
            "parent_asin": item_id(0),
        },
        {"main_category": "Books", "price": None, "categories": [], "parent_asin": item_id(1)},
    ]
    made = attributes(tmp_path, [json.dumps(row) for row in products])
    names = ("title", "category_name", "categories", "brand")
    assert made.attributes(item_id(0), *names) == ("Cup", "Beauty", ["Beauty", "Cups"], "O'Neill")
    assert made.attributes(item_id(1), *names, "price") == (
        item_id(1),
        "Books",
        ["Books"],
        None,
        None,
    )


@pytest.mark.parametrize("least", [0, 1, 3])
def test_the_least_number_can_be_chosen(tmp_path: Path, least: int) -> None:
    metadata(tmp_path)
    reviews = random_reviews()
    lines = write(tmp_path / "ratings.csv", [ratings_2014(row) for row in reviews])
    made = Prepared(options(tmp_path, lines, minimum=least))
    train, test = last_of_each_user(five_core(reviews, least)[0])
    assert made.triples("train") == by_time(train)
    assert made.triples("test") == by_time(test)


def test_a_filter_that_leaves_nothing(tmp_path: Path) -> None:
    metadata(tmp_path)
    lines = [ratings_2014((user_id(row), item_id(row), row)) for row in range(9)]
    refused(options(tmp_path, write(tmp_path / "r.csv", lines)), "--minimum", "5 interactions")


def few_reviews(items: int) -> list[str]:
    return [json_review((user_id(row % 2), item_id(row % items), row)) for row in range(4 * items)]


def attributes(tmp_path: Path, products: list[str]) -> Prepared:
    write(tmp_path / "metadata.json", products)
    reviews = write(tmp_path / "reviews.json", few_reviews(len(products)))
    return Prepared(options(tmp_path, reviews, minimum=0))


def test_the_metadata_of_2014_are_python_literals(tmp_path: Path) -> None:
    products = [
        {
            "asin": item_id(0),
            "title": 'Bob\'s "best" cup — blue',
            "price": 12.5,
            "brand": "O'Neill",
            "categories": [["Home", "Cups", "Blue"], ["Gifts"]],
        },
        {"asin": item_id(1), "categories": [["Garden"]], "salesRank": {"Garden": 7}},
    ]
    made = attributes(tmp_path, [str(row) for row in products])
    names = ("title", "category_name", "categories", "brand")
    assert made.attributes(item_id(0), *names) == (
        'Bob\'s "best" cup — blue',
        "Home",
        ["Home", "Cups", "Blue"],
        "O'Neill",
    )
    assert made.attributes(item_id(1), *names) == (item_id(1), "Garden", ["Garden"], None)


def test_the_category_is_the_second_level_where_the_first_is_one_for_all(tmp_path: Path) -> None:
    products = [
        product(0, category=["Books", "Novels"]),
        product(1, category=["Books", "Poems", "Odes"]),
        product(2, category=["Books"]),
        product(3, category=[]),
    ]
    made = attributes(tmp_path, [json.dumps(row) for row in products])
    found = [made.attributes(item_id(number), "category")[0] for number in range(4)]
    assert found == ["Novels", "Poems", None, None]
    assert made.schema.notes[0] == "category: level 2 of the product's categories"


def test_the_category_is_the_first_level_where_that_differs(tmp_path: Path) -> None:
    products = [product(0, category=["Books", "New"]), product(1, category=["Music", "New"])]
    made = attributes(tmp_path, [json.dumps(row) for row in products])
    found = [made.attributes(item_id(number), "category")[0] for number in range(2)]
    assert found == ["Books", "Music"]
    assert made.schema.notes[0] == "category: level 1 of the product's categories"


PRICES = [("$1,299.00", 1299.0), ("12.5", 12.5), (3, 3.0), ("$7.99 - $9.99", 7.99), ("", None)]


def test_prices_in_all_spellings(tmp_path: Path) -> None:
    products = [product(number, price=price) for number, (price, _) in enumerate(PRICES)]
    made = attributes(tmp_path, [json.dumps(row) for row in products])
    for number, (_, price) in enumerate(PRICES):
        bucket = made.attributes(item_id(number), "price")[0]
        if price is None:
            assert bucket is None
        else:
            start, stop = (float(edge) for edge in bucket.strip("[)").split(","))
            assert start <= price < stop
    assert len({made.attributes(item_id(number), "price") for number in range(5)}) == 5


@pytest.mark.parametrize("dump", [json.dumps, str])
def test_half_of_a_surrogate_pair_in_a_text_is_replaced(
    tmp_path: Path, dump: Callable[[Any], str]
) -> None:
    words = {"title": "cup \ud83d", "brand": "\udc00 & Co", "category": ["A\ud83d", "cup ☕"]}
    made = attributes(tmp_path, [dump(product(0, **words)), dump(product(1, category=["B"]))])
    assert made.attributes(item_id(0), *words) == ("cup ?", "? & Co", "A?")
    assert made.attributes(item_id(0), "categories") == (["A?", "cup ☕"],)
    assert made.schema.rejected == {}


@pytest.mark.parametrize("line", ['{"asin": "B9\\ud800", "title": "cup"}', '{"a": ' + DEEP])
def test_a_bad_product_is_counted(tmp_path: Path, line: str) -> None:
    metadata(tmp_path)
    products = (tmp_path / "metadata.json").read_text().splitlines()
    write(tmp_path / "metadata.json", [*products, line])
    reviews = write(tmp_path / "reviews.json", few_reviews(25))
    made = Prepared(options(tmp_path, reviews, minimum=0, max_rejected=0.04))
    assert made.schema.rejected == {"missing item_id in items": 1}
    assert set(made.items) == {item_id(number) for number in range(25)}


@pytest.mark.parametrize("levels", [{"Toys": 1}, 5, "Toys"])
def test_categories_that_are_no_list_are_unknown(tmp_path: Path, levels: Any) -> None:
    products = [product(0), product(1, category=levels)]
    made = attributes(tmp_path, [json.dumps(row) for row in products])
    found = [made.attributes(item_id(number), "category_name")[0] for number in range(2)]
    assert found == ["X", "(unknown)"]


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


@pytest.mark.parametrize(("line", "kind", "value"), BAD_LINES)
def test_a_bad_review_is_located(tmp_path: Path, line: str, kind: str, value: str) -> None:
    metadata(tmp_path)
    lines = [json_review(row) for row in random_reviews()]
    reviews = write(tmp_path / "reviews.json", [*lines[:4], line, *lines[4:]])
    place = f"{reviews}: row 5: {kind} (value: {value})"
    refused(options(tmp_path, reviews, max_rejected=0.0), place, "remove the row", "1 of 261 rows")


def test_bad_reviews_are_counted_by_kind(tmp_path: Path) -> None:
    metadata(tmp_path)
    rows = random_reviews()
    lines = [json_review(row) for row in rows]
    bad = [line for line, _, _ in BAD_LINES]
    reviews = write(tmp_path / "reviews.json.gz", [*lines[:4], *bad, *lines[4:]])
    refused(
        options(tmp_path, reviews), "reviews.json.gz: row 5", "14 of 274 rows", "--max-rejected"
    )
    made = Prepared(options(tmp_path, reviews, max_rejected=0.052))
    assert made.schema.rejected == Counter(kind for _, kind, _ in BAD_LINES)
    train, test = last_of_each_user(five_core(rows, 5)[0])
    assert made.triples("train") == by_time(train)
    assert made.triples("test") == by_time(test)


def test_bad_ratings_and_products(tmp_path: Path) -> None:
    products = [json.dumps(product(number)) for number in range(25)]
    write(tmp_path / "metadata.json", [*products, products[3], "{ cut"])
    lines = [ratings_2018(row) for row in random_reviews()]
    lines[6] = "B000000001,A1,5.0"
    reviews = write(tmp_path / "ratings.csv", lines)
    refused(options(tmp_path, reviews), "metadata.json: row 26: duplicate item_id", "2 of 27 rows")
    refused(
        options(tmp_path, write(tmp_path / "ratings.csv", lines[6:16]), max_rejected=0.09),
        f"{reviews}: row 1: line without 4 fields (value: B000000001,A1,5.0)",
        "1 of 10 rows",
    )
    write(tmp_path / "ratings.csv", lines)
    assert Prepared(options(tmp_path, reviews, max_rejected=0.1)).schema.rejected == {
        "duplicate item_id in items": 1,
        "line without 4 fields": 1,
        "missing item_id in items": 1,
    }


@pytest.mark.parametrize("name", ["ratings.csv.gz", "reviews.json.gz", "metadata.json.gz"])
def test_a_damaged_download(tmp_path: Path, name: str) -> None:
    ratings, reviews = tmp_path / "ratings.csv.gz", tmp_path / "reviews.json.gz"
    write(ratings, [ratings_2014(row) for row in random_reviews()])
    write(reviews, [json_review(row) for row in random_reviews()])
    products = [json.dumps(product(number)) for number in range(25)]
    values: dict[str, Any] = {
        "reviews": ratings if "csv" in name else reviews,
        "metadata": write(tmp_path / "metadata.json.gz", products),
        "out": tmp_path / "out",
    }
    path = tmp_path / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:middle],
        whole[:-20],
        b"no gzip",
        whole[:40] + b"\xff" * 9 + whole[40:],
        whole[:40] + b"\xff" * 40 + whole[80:],
    ):
        path.write_bytes(damaged)
        message = refused(Amazon(**values))
        assert message.startswith(f"{path}: cannot be read (")
        assert message.endswith("download it anew")
    path.write_bytes(whole)
    assert Prepared(Amazon(**values)).schema.rejected == {}


def test_other_wrong_paths(tmp_path: Path) -> None:
    reviews = write(tmp_path / "reviews.json", few_reviews(2))
    refused(options(tmp_path, reviews), "metadata.json: no such file or folder")
    metadata(tmp_path)
    refused(options(tmp_path, tmp_path / "none.json"), "none.json: no such file or folder")
    folder = tmp_path / "folder"
    folder.mkdir()
    for wrong in (options(tmp_path, folder), options(tmp_path, reviews, metadata=folder)):
        assert refused(wrong).startswith(f"{folder}: cannot be read (Is a directory)")
    refused(options(tmp_path, write(tmp_path / "empty.json", [])), "interactions are empty")
    large = f"{user_id(1)},{'B' * 140_000},5.0,1"
    for lines in ([ratings_2014((user_id(1), item_id(1), 1)), large], ['"', "x" * 140_000]):
        csv = write(tmp_path / "large.csv", lines)
        message = refused(options(tmp_path, csv, csv_columns="user-item"))
        assert message.startswith(f"{csv}: line 2: field larger than field limit")
    swapped = options(tmp_path, tmp_path / "metadata.json", metadata=reviews)
    refused(swapped, "reviews.json: row 3: duplicate item_id in items")
