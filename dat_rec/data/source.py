"""What a source hands to the pipeline: three raw relations, attributes, a rule for the split.

A source registers these DuckDB relations (tables or views) in the connection it is given:

    raw_interactions   user_id, item_id, time, file, row, problem, value, and what its split reads
    raw_items          item_id, title, file, row, and its attributes' columns
    raw_users          user_id, file, row, and its attributes' columns

Ids are BIGINT or VARCHAR, alike in all relations. ``time`` is BIGINT: microseconds since 1970 for
timestamps, else the source's own order. ``row`` counts the file's rows from 1. ``problem`` is NULL,
or says what is wrong with the row, and ``value`` shows it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from dat_rec.data.schema import RESERVED_COLUMNS, Side
from dat_rec.errors import UserError

HISTORY_CATEGORY, REPEAT = "history_category", "repeat"
OWN_COLUMNS = RESERVED_COLUMNS | {
    "user",
    "item",
    "history",
    HISTORY_CATEGORY,
    REPEAT,
    "file",
    "row",
    "problem",
    "value",
}
Kind = Literal["category", "tags", "number"]


@dataclass(frozen=True)
class Attribute:
    """One column of raw_users or raw_items that becomes a feature."""

    name: str
    """The column's name, and the feature's."""
    side: Side
    kind: Kind = "category"
    """category: one value a row. tags: a list of values. number: cut into quantile buckets."""

    def __post_init__(self) -> None:
        # DuckDB tells no "Time" from "time", and a name is also a file's name.
        taken = self.name.lower() in OWN_COLUMNS or self.name[:1] in ("", "_")
        if taken or set("@./") & set(self.name):
            raise UserError(
                f"attribute {self.name!r}: the name is reserved, or holds one of @ . /: "
                "rename the column"
            )


@dataclass(frozen=True)
class Split:
    """How held-out interactions are told from training interactions."""

    is_test: str
    """SQL: a boolean over the columns of ``interactions``, never NULL."""
    words: str
    """The same for a reader, for ``Schema.split``."""


def last_share_of_time(share: float) -> Split:
    """Hold out the last ``share`` of the interactions by time, equal times together.

    Raises:
        UserError: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UserError(f"test share {share}: must lie between 0 and 1, e.g. 0.1")
    cut = (
        "SELECT min(time) FROM (SELECT time, sum(count(*)) OVER (ORDER BY time) AS upto "
        f"FROM interactions GROUP BY time) WHERE upto > floor((1 - {share!r}::DOUBLE) * "
        "(SELECT count(*) FROM interactions))"
    )
    return Split(f"time >= ({cut})", f"test: the last {share * 100:g} % of interactions by time")


@dataclass(frozen=True)
class Source:
    """What the pipeline needs to know beyond the raw relations."""

    name: str
    """As on the command line."""
    category: str
    """The item attribute that is the category of equation (3)."""
    attributes: tuple[Attribute, ...]
    split: Split
    notes: tuple[str, ...] = ()
    facts: dict[str, float] | None = None
    minimum: int = 0
    """Keep only users and items with at least so many interactions, iterated; the catalogue
    keeps only the items that remain. 0: keep all."""

    def __post_init__(self) -> None:
        names = [attribute.name for attribute in self.attributes]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"feature {name!r} is named twice: rename the column on one side")


def columns_of(database: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Column name → DuckDB type of ``relation`` (a name, or SQL that can stand after FROM)."""
    rows = database.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return {row[0]: str(row[1]) for row in rows}


def quoted(text: str | Path) -> str:
    """``text`` as an SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def named(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
