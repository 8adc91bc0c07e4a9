"""A run's copy of what its embedding rows stand for, and another dataset's rows matched with them.

Rows mean the same if they stand for the same id or value (``dat_rec.data.rows``), whatever their
numbers. A warm start copies such rows; an evaluation on another dataset looks them up.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dat_rec.data.dataset import Dataset
from dat_rec.data.matched_rows import MatchedRows, Rows
from dat_rec.data.rows import CURE, ids, places, row_values
from dat_rec.data.schema import HISTORY, ITEM, UNKNOWN, USER, Feature, Schema
from dat_rec.errors import UserError
from dat_rec.storage.address import Location

ROWS = "rows"
"""Name of the folder in a run that says what its embedding rows stand for."""
MATCH_CURE = "prepare the dataset anew, or evaluate on the dataset of the training"


def table_values(folder: Location, table: str, rows: int, cure: str = CURE) -> pa.LargeStringArray:
    """(rows,) what each row of a table stands for, as ``row_values``.

    Args:
        folder: a prepared dataset, or a run's copy of its rows.
        table: name of an embedding table of the schema.
        rows: number of rows that the table has.
        cure: what a refusal advises.

    Raises:
        UserError: the folder does not say of each row what it stands for.
    """
    values = row_values(folder, table, cure)
    if len(values) != rows:
        raise UserError(
            f"{folder} tells what {len(values)} rows of {table} stand for, and the table has {rows}"
        )
    return values


def match_rows(run: Path, dataset: Dataset, digest: str) -> MatchedRows:
    """Find the run's row for each id and value of a dataset.

    Args:
        run: folder of the run, which keeps its rows.
        dataset: another one than that of the training.
        digest: its ``row_digest``.

    Raises:
        UserError: the run keeps no rows, the dataset lacks a feature that the towers take or has it
            in another form, or a file is malformed.
    """
    if not (run / ROWS).is_dir():
        raise UserError(
            f"{run}: does not say what its rows stand for (no {ROWS}/), and {dataset.folder} has "
            "other ones: evaluate on the dataset of the training, or train anew"
        )
    then = Schema.load(run)
    features = _same_inputs(run, then, dataset)
    of_run: dict[str, pa.LargeStringArray] = {}

    def run_values(table: str) -> pa.LargeStringArray:
        if table not in of_run:
            rows = next(one.rows for one in then.features if one.table == table)
            of_run[table] = table_values(run / ROWS, table, rows, MATCH_CURE)
        return of_run[table]

    def of_ids(table: str) -> Rows:
        return _known(places(ids(dataset.folder, table, MATCH_CURE), run_values(table)))

    tables: dict[str, Rows] = {}
    for one in features:
        if one.name not in (USER, ITEM) and one.table not in tables:
            values = table_values(dataset.folder, one.table, one.rows, MATCH_CURE)
            tables[one.table] = _known(places(values, run_values(one.table)))
    return MatchedRows(features, digest, of_ids(USER), of_ids(ITEM), tables)


def _known(found: Rows) -> Rows:
    return np.where(found < 0, UNKNOWN, found)


def _same_inputs(run: Path, then: Schema, dataset: Dataset) -> tuple[Feature, ...]:
    """The dataset's features that the run's towers take, in their order.

    Raises:
        UserError: one is missing, or means something else.
    """
    now = dataset.schema
    by_name = {feature.name: feature for feature in now.features}
    pairs: list[tuple[str, Any, Any]] = []
    if any(feature.name == HISTORY for feature in then.features):
        pairs.append(("history_length", now.history_length, then.history_length))
        pairs.append(("histories", now.histories, then.histories))
    for old in then.features:
        if old.name not in by_name:
            raise UserError(
                f"{dataset.folder}: has no feature {old.name!r}, which the towers of {run} take: "
                "prepare it with that feature"
            )
        pairs.append((f"feature {old.name!r}", _kind(by_name[old.name]), _kind(old)))
    for what, found, wanted in pairs:
        if found != wanted:
            raise UserError(
                f"{dataset.folder}: {what} is {found}, and was {wanted} when {run} was trained: "
                "prepare it with the options of the training's dataset"
            )
    return tuple(by_name[old.name] for old in then.features)


def _kind(feature: Feature) -> str:
    values = "lists of values" if feature.multi_valued else "one value"
    return f"{values} of table {feature.table!r} for the {feature.side} tower"
