"""Training interactions of a log without order in, each item's audience out.

An item's audience is the users who had it, all or some of them, drawn at random. It is to the item
what the history is to the user: a feature of several values, in the users' own table. In an example
it lacks the example's user, as the history lacks its item. In a log with order it would tell of
what comes later, and so there is none.
"""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.prepare.history import IDS
from dat_rec.data.scan import scan_parquet
from dat_rec.data.schema import AUDIENCE, USER, Feature


def add_audience(
    database: duckdb.DuckDBPyConnection, training: Path, length: int, seed: int, users: Feature
) -> Feature:
    """Add the column ``audience`` to ``item_rows``, rows of the users' table in a random order.

    Args:
        database: holds ``item_rows``.
        training: folder of ``write_training``.
        length: maximum number of users of an item.
        seed: decides who they are.
        users: the feature that names the users' table.
    """
    files = sorted(path for folder in training.iterdir() for path in folder.iterdir())
    # A digest that stays the same over releases of DuckDB, as its hash() may not.
    key = f"md5_number_lower(concat_ws(' ', {seed}, user_row, item_index))"
    pairs = f"SELECT DISTINCT user_row, item_index, {key} AS key FROM {scan_parquet(files)}"
    database.execute(
        f"CREATE TABLE audiences AS SELECT item_index, arg_min(user_row + 1, key, {length}) AS "
        f"{AUDIENCE} FROM ({pairs}) GROUP BY item_index"
    )
    database.execute(
        f"CREATE TABLE heard AS SELECT item_rows.*, coalesce({AUDIENCE}, [])::INTEGER[] AS "
        f"{AUDIENCE} FROM item_rows LEFT JOIN audiences USING (item_index)"
    )
    database.execute("DROP TABLE item_rows; DROP TABLE audiences")
    database.execute("ALTER TABLE heard RENAME TO item_rows")
    return Feature(AUDIENCE, "item", users.table, users.rows, multi_valued=True)


def without_own(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` with each example's own user left out of ``audience``.

    Args:
        batch: examples with the columns ``user`` and ``audience``.
    """
    place = batch.schema.get_field_index(AUDIENCE)
    audience = batch.column(place)
    lengths = audience.value_lengths().to_numpy()
    values: NDArray[np.int32] = audience.flatten().to_numpy()
    kept = values != np.repeat(batch[USER].to_numpy(), lengths)
    ends = np.concatenate(([0], np.cumsum(kept)))
    offsets = ends[np.concatenate(([0], np.cumsum(lengths)))]
    column = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values[kept], pa.int32()), type=IDS
    )
    return batch.set_column(place, pa.field(AUDIENCE, IDS, nullable=False), column)
