"""Amazon reviews and product metadata (McAuley et al.), the paper's public data set.

Reviews: JSON lines (reviewerID, asin, unixReviewTime; the 5-core files), or the ratings CSV without
a header: user,item,rating,timestamp (2014) or item,user,rating,timestamp (2018; told apart by
the ids' shapes). Metadata: JSON lines, or the Python literals of the 2014 dump. All may be .gz.
"""

import ast
import csv
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.prepare import Options
from dat_rec.data.source import Attribute, Source, Split, quoted
from dat_rec.errors import UserError

BATCH_LINES = 20_000
LOOK_AT = 1_000
"""Lines that decide which column of a ratings CSV holds the items."""
ASIN = re.compile(r"(B[0-9A-Z]{9}|[0-9]{9}[0-9X])")
REVIEW_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("user_id", "item_id", "time", "problem", "value")]
    + [("row", pa.int64())]
)
ITEM_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("item_id", "title", "brand")]
    + [("price", pa.float64()), ("categories", pa.list_(pa.string())), ("row", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class Amazon(Options):
    """Amazon reviews as in the paper: ≥ 5 reviews, the last item of each user is the test."""

    reviews: Path
    """5-core JSON lines or ratings CSV (its name ends in .csv or .csv.gz)."""
    metadata: Path
    """Product metadata, JSON lines."""
    csv_columns: Literal["auto", "user-item", "item-user"] = "auto"
    """Which of a ratings CSV's first two columns is which."""
    minimum: int = 5
    """Users and items with fewer reviews are dropped, again and again until none is left."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """See Options."""
        rows = self._ratings() if _is_csv(self.reviews) else _reviews(self.reviews)
        _to_parquet(rows, REVIEW_SCHEMA, work / "reviews.parquet")
        _to_parquet(_products(self.metadata), ITEM_SCHEMA, work / "metadata.parquet")
        database.execute(
            "CREATE VIEW raw_interactions AS SELECT user_id, item_id, "
            "try_cast(time AS BIGINT) * 1000000 AS time, problem, coalesce(value, time) AS value, "
            f"row, {quoted(self.reviews)} AS file "
            f"FROM read_parquet({quoted(work / 'reviews.parquet')}); "
            "CREATE VIEW raw_users AS SELECT user_id, row, file FROM raw_interactions WHERE false"
        )
        level = _category_level(database, work)
        database.execute(
            "CREATE VIEW raw_items AS SELECT item_id, "
            "coalesce(nullif(title, ''), item_id) AS title, "
            f"categories[{level}] AS category, categories, brand, price, row, "
            f"{quoted(self.metadata)} AS file "
            f"FROM read_parquet({quoted(work / 'metadata.parquet')})"
        )
        last = "row_number() OVER (PARTITION BY user_id ORDER BY time DESC, row DESC) = 1"
        return Source(
            name="amazon",
            category="category",
            attributes=(
                Attribute("category", "item"),
                Attribute("categories", "item", "tags"),
                Attribute("brand", "item"),
                Attribute("price", "item", "number"),
            ),
            split=Split(last, "test: the last item of each user (the paper's split)"),
            notes=(f"category: level {level} of the product's categories",),
            minimum=self.minimum,
        )

    def _ratings(self) -> Iterator[dict[str, Any]]:
        item = self._item_column()
        with _open(self.reviews) as file:
            for number, fields in enumerate(csv.reader(file), 1):
                if len(fields) < 4:
                    problem = "line without 4 fields"
                    yield {"row": number, "problem": problem, "value": ",".join(fields)[:80]}
                    continue
                user, time = fields[1 - item], fields[3]
                yield {"row": number, "user_id": user, "item_id": fields[item], "time": time}

    def _item_column(self) -> int:
        if self.csv_columns != "auto":
            return 1 if self.csv_columns == "user-item" else 0
        with _open(self.reviews) as file:
            rows = [row for row in islice(csv.reader(file), LOOK_AT) if len(row) >= 4]
        shapes = [sum(bool(ASIN.fullmatch(row[place])) for row in rows) for place in (0, 1)]
        if shapes[0] == shapes[1]:
            raise UserError(
                f"{self.reviews}: cannot tell which of the first two columns is the item: "
                "pass --csv-columns user-item or item-user"
            )
        return int(shapes[1] > shapes[0])


def _is_csv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".csv")


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Line number from 1, its object (None: it is none), the line."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            value: Any = None
            try:
                value = json.loads(line)
            except ValueError:
                try:
                    value = ast.literal_eval(line)
                except (ValueError, SyntaxError, MemoryError, RecursionError):
                    value = None
            yield number, value if isinstance(value, dict) else None, line


def _reviews(path: Path) -> Iterator[dict[str, Any]]:
    for number, review, line in _lines(path):
        if review is None:
            yield {"row": number, "problem": "malformed line", "value": line.strip()[:80]}
        else:
            yield {
                "row": number,
                "user_id": _text(review.get("reviewerID")),
                "item_id": _text(review.get("asin")),
                "time": _text(review.get("unixReviewTime")),
            }


def _products(path: Path) -> Iterator[dict[str, Any]]:
    for number, product, _ in _lines(path):
        product = product or {}
        levels = product.get("category") or product.get("categories") or []
        if levels and isinstance(levels[0], list):
            levels = levels[0]
        price = re.search(r"\d+(\.\d+)?", str(product.get("price", "")).replace(",", ""))
        yield {
            "row": number,
            "item_id": _text(product.get("asin")),
            "title": _text(product.get("title")),
            "brand": _text(product.get("brand")),
            "price": float(price[0]) if price else None,
            "categories": [str(level) for level in levels] if isinstance(levels, list) else None,
        }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _to_parquet(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(rows, BATCH_LINES)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def _category_level(database: duckdb.DuckDBPyConnection, work: Path) -> int:
    """1, or 2 where the first level is the same for all products."""
    row = database.execute(
        "SELECT count(DISTINCT categories[1]), count(DISTINCT categories[2]) "
        f"FROM read_parquet({quoted(work / 'metadata.parquet')})"
    ).fetchone()
    return 2 if row and row[0] == 1 and row[1] > 0 else 1
