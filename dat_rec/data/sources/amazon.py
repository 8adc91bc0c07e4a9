"""Amazon reviews and product metadata (McAuley et al.), the paper's public data set.

Reviews: JSON lines (reviewerID, asin, unixReviewTime; the 5-core files of 2014 and 2018; user_id,
parent_asin, timestamp in 2023), or the ratings CSV without a header: user,item,rating,timestamp
(2014) or item,user,rating,timestamp (2018; told apart by the ids' shapes); that of 2023 has one.
Metadata: JSON lines, or the Python literals of the 2014 dump. All may be .gz.

An item of 2023 is a parent_asin: its colours and sizes are one, as in the metadata.
"""

import ast
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.prepare.options import Options
from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import Attribute, Source, last_of_each_user, quoted
from dat_rec.data.sources.price import price
from dat_rec.data.sources.tables import NO_USERS, integer, microseconds
from dat_rec.errors import UserError

BATCH_LINES = 20_000
SECOND, MILLISECOND = 1_000_000, 1_000
"""Microseconds in one; times are seconds up to 2018, milliseconds in 2023."""
CSV_2023 = ("user_id", "parent_asin", "timestamp")
LOOK_AT = 1_000
"""Number of lines that decide which column of a ratings CSV holds the items."""
ASIN = re.compile(r"(B[0-9A-Z]{9}|[0-9]{9}[0-9X])")
MALFORMED = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
"""What json and ast raise at a line that is no object, and _id at half a character."""
REVIEW_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("user_id", "item_id", "time", "problem", "value")]
    + [("row", pa.int64()), ("micros_in_one", pa.int64())]
)
ITEM_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("item_id", "title", "brand")]
    + [("price", pa.float64()), ("categories", pa.list_(pa.string())), ("row", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class Amazon(Options):
    """Make a dataset of Amazon reviews as the paper does: each user's last item is the test."""

    reviews: Path
    """File of reviews: 5-core JSON lines, or a ratings CSV, whose name ends in .csv or .csv.gz."""
    metadata: Path
    """File of product metadata: JSON lines, perhaps .gz."""
    csv_columns: Literal["auto", "user-item", "item-user"] = "auto"
    """Order of the first two columns of a ratings CSV; auto: told by the ids' shapes."""
    minimum: int = 5
    """Minimum number of reviews of a user or item; those with fewer are dropped, again and again
    until none is left."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """See Options."""
        rows = self._ratings() if _is_csv(self.reviews) else _records(self.reviews, _review)
        _to_parquet(rows, REVIEW_SCHEMA, work / "reviews.parquet")
        _to_parquet(_records(self.metadata, _product), ITEM_SCHEMA, work / "metadata.parquet")
        database.execute(
            "CREATE VIEW raw_interactions AS SELECT user_id, item_id, "
            f"{microseconds(integer('time'), 'micros_in_one')} AS time, problem, "
            f"coalesce(value, time) AS value, row, {quoted(self.reviews)} AS file "
            f"FROM {scan_parquet([work / 'reviews.parquet'])}; {NO_USERS}"
        )
        level = _category_level(database, work)
        database.execute(
            "CREATE VIEW raw_items AS SELECT item_id, "
            "coalesce(nullif(title, ''), item_id) AS title, "
            f"categories[{level}] AS category, categories, brand, price, row, "
            f"{quoted(self.metadata)} AS file "
            f"FROM {scan_parquet([work / 'metadata.parquet'])}"
        )
        return Source(
            name="amazon",
            category="category",
            attributes=(
                Attribute("category", "item"),
                Attribute("categories", "item", "tags"),
                Attribute("brand", "item"),
                Attribute("price", "item", "number"),
            ),
            split=last_of_each_user("row"),
            notes=(f"category: level {level} of the product's categories",),
            minimum=self.minimum,
        )

    def _ratings(self) -> Iterator[dict[str, Any]]:
        rows = _csv_rows(self.reviews)
        first = next(rows, [])
        header = {
            name.strip().lower().lstrip("\ufeff"): position for position, name in enumerate(first)
        }
        positions = [header.get(name, -1) for name in CSV_2023]
        if min(positions) >= 0:
            user, item, time = positions
            micros, numbered = MILLISECOND, enumerate(rows, 1)
        else:
            item = self._item_column()
            user, time, micros = 1 - item, 3, SECOND
            numbered = enumerate(_csv_rows(self.reviews), 1)
        for number, fields in numbered:
            if len(fields) <= max(user, item, time):
                problem = "line without 4 fields"
                yield {"row": number, "problem": problem, "value": ",".join(fields)[:80]}
                continue
            yield {
                "row": number,
                "user_id": fields[user],
                "item_id": fields[item],
                "time": fields[time],
                "micros_in_one": micros,
            }

    def _item_column(self) -> int:
        if self.csv_columns != "auto":
            return 1 if self.csv_columns == "user-item" else 0
        rows = [row for row in islice(_csv_rows(self.reviews), LOOK_AT) if len(row) >= 4]
        shapes = [sum(bool(ASIN.fullmatch(row[position])) for row in rows) for position in (0, 1)]
        if shapes[0] == shapes[1]:
            raise UserError(
                f"{self.reviews}: cannot tell which of the first two columns is the item: "
                "pass --csv-columns user-item or item-user"
            )
        return int(shapes[1] > shapes[0])


def _is_csv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".csv")


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    """The file as text.

    Raises:
        UserError: it is no file, or no whole gzip file; also while it is read.
    """
    packed = path.suffix == ".gz"
    try:
        with (gzip.open if packed else open)(
            path, "rt", encoding="utf-8", errors="replace", newline=""
        ) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}): download it anew") from error


def _csv_rows(path: Path) -> Iterator[list[str]]:
    with _open(path) as file:
        reader = csv.reader(file)
        try:
            yield from reader
        except csv.Error as error:
            raise UserError(
                f"{path}: line {reader.line_num}: {error}: correct or remove the line"
            ) from error


def _records(
    path: Path, record: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each line's record, ``row`` from 1; where there is none, the problem and the line."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                fields = record(_object(line))
            except MALFORMED:
                fields = {"problem": "malformed line", "value": line.strip()[:80]}
            yield {"row": number, **fields}


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = ast.literal_eval(line)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _review(review: dict[str, Any]) -> dict[str, Any]:
    new = "timestamp" in review and "unixReviewTime" not in review
    return {
        "user_id": _id(_first(review, "reviewerID", "user_id")),
        "item_id": _id(_first(review, "parent_asin", "asin")),
        "time": _id(_first(review, "unixReviewTime", "timestamp")),
        "micros_in_one": MILLISECOND if new else SECOND,
    }


def _first(record: dict[str, Any], *names: str) -> Any:
    """The first of these fields that is there."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def _product(product: dict[str, Any]) -> dict[str, Any]:
    levels = product.get("category") or product.get("categories")
    if isinstance(levels, list) and levels and isinstance(levels[0], list):
        levels = levels[0]
    if not levels and product.get("main_category"):
        levels = [product["main_category"]]
    return {
        "item_id": _id(_first(product, "parent_asin", "asin")),
        "title": _text(product.get("title")),
        "brand": _text(_first(product, "brand", "store")),
        "price": price(product.get("price")),
        "categories": [_text(level) for level in levels] if isinstance(levels, list) else None,
    }


def _id(value: Any) -> str | None:
    """The value as text; half a surrogate pair, which no file holds, is a UnicodeEncodeError.

    Replaced, it could make one id of two.
    """
    return None if value is None else str(value).encode().decode()


def _text(value: Any) -> str | None:
    """The value as text for a reader, with ? for half a surrogate pair."""
    return None if value is None else str(value).encode(errors="replace").decode()


def _to_parquet(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, BATCH_LINES)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def _category_level(database: duckdb.DuckDBPyConnection, work: Path) -> int:
    """1, or 2 where the first level is the same for all products."""
    row = database.execute(
        "SELECT count(DISTINCT categories[1]), count(DISTINCT categories[2]) "
        f"FROM {scan_parquet([work / 'metadata.parquet'])}"
    ).fetchone()
    return 2 if row and row[0] == 1 and row[1] > 0 else 1
