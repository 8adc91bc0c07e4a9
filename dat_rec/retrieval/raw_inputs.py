"""What the towers' inputs are made of, as the log has it: ``inputs.json`` of an export.

For each feature: the column that holds the raw values, and how these become row numbers.
docs/export.md has the rules; ``dat_rec.retrieval.fresh`` follows them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from dat_rec.data.schema import (
    HISTORY,
    HISTORY_CATEGORY,
    ITEM,
    USER,
    DenseFeature,
    Feature,
    Schema,
    Side,
)
from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, read_json, write_json

INPUTS, VOCABULARIES = "inputs.json", "vocabularies"
VERSION = 1
IDS = {USER: "user_id", ITEM: "item_id"}
"""Columns of ids, by the table that they look up."""
AGAIN = "export anew"
Kind = Literal["id", "text", "number", "row", "item_category", "dense"]


@dataclass(frozen=True)
class RawInput:
    """How a column of raw values becomes one feature's input."""

    feature: str
    column: str
    """That holds the raw values; several features may be made of one."""
    kind: Kind
    """id: ids of ``table``. text: values that the table's vocabulary lists. number: cut at
    ``edges``. row: row numbers as they are, for want of a vocabulary. item_category: ids of items,
    of which each counts as its category's value. dense: numbers that the tower takes as they
    are."""
    table: str = ""
    """The embedding table; empty for dense ones."""
    rows: Annotated[int, Ge(0)] = 0
    """Of the table, the unknown row 0 included."""
    multi_valued: bool = False
    """Whether a row holds a list."""
    latest: Annotated[int, Ge(1)] | None = None
    """Maximum number of values: of a longer list the last ones count; None: all do."""
    edges: tuple[float, ...] | None = None
    """Of a number: row = 1 + how many edges are at or below it."""

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Inputs:
    """What ``inputs.json`` holds."""

    trained_items: Annotated[int, Ge(1)]
    """Items with a row of their own: row = item_index + 1 below this number, else 0."""
    query: tuple[RawInput, ...]
    """In the query tower's order, dense ones last."""
    item: tuple[RawInput, ...]
    """In the item tower's order, dense ones last."""
    item_dense: tuple[DenseFeature, ...]
    """The dense item features; those of queries stand in export.json."""
    category: Feature
    """The item feature whose values an item_category counts."""
    version: int = VERSION

    __pydantic_config__ = STRICT

    def save(self, folder: Path) -> None:
        """Write ``inputs.json``."""
        write_json(folder / INPUTS, asdict(self))

    @staticmethod
    def load(folder: Path) -> "Inputs":
        """Read ``inputs.json``.

        Raises:
            UserError: it is malformed, or of another version.
        """
        path = folder / INPUTS
        value = read_json(path, "the export's inputs")
        version = value.get("version") if isinstance(value, dict) else None
        if version not in (None, VERSION):
            raise UserError(f"{path}: version {version}, this program reads {VERSION}: {AGAIN}")
        return checked(Inputs, value, str(path), AGAIN)


def inputs_of(schema: Schema, edges: Mapping[str, tuple[float, ...] | None]) -> Inputs:
    """How the features of a dataset are made.

    Args:
        schema: the dataset's.
        edges: for each table that has a vocabulary its buckets' edges, None where it lists values.
    """
    sides: dict[Side, tuple[RawInput, ...]] = {
        side: (
            *(_input(feature, schema, edges) for feature in schema.side(side)),
            *(RawInput(one.name, one.name, "dense") for one in schema.dense_side(side)),
        )
        for side in ("query", "item")
    }
    category = schema.feature(schema.category)
    dense = schema.dense_side("item")
    return Inputs(schema.trained_items, sides["query"], sides["item"], dense, category)


def _input(
    feature: Feature, schema: Schema, edges: Mapping[str, tuple[float, ...] | None]
) -> RawInput:
    same: dict[str, Any] = {
        "feature": feature.name,
        "table": feature.table,
        "rows": feature.rows,
        "multi_valued": feature.multi_valued,
    }
    if feature.name in IDS and feature.name == feature.table:
        return RawInput(column=IDS[feature.name], kind="id", **same)
    names = {one.name for one in schema.side("query")}
    latest = schema.history_length if feature.name in (HISTORY, HISTORY_CATEGORY) else None
    if feature.table in IDS:
        return RawInput(column=feature.name, kind="id", latest=latest, **same)
    category = schema.feature(schema.category)
    of_history = feature.name == HISTORY_CATEGORY and feature.table == category.table
    if of_history and HISTORY in names and feature.table in edges:
        return RawInput(column=HISTORY, kind="item_category", latest=latest, **same)
    if feature.table not in edges:
        return RawInput(column=feature.name, kind="row", latest=latest, **same)
    if (cut := edges[feature.table]) is not None and not feature.multi_valued:
        return RawInput(column=feature.name, kind="number", edges=cut, **same)
    return RawInput(column=feature.name, kind="text", **same)
