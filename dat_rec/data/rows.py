"""What every embedding row stands for: the id or value of each row of a table.

A dataset tells it in users.parquet, items.parquet and vocabularies/; a run keeps a copy, so
that another day's run can begin from it, and another day's dataset be scored, when the dataset is
gone. Beside the items' rows it keeps how often each was trained on, and had lately: popularity is a
part of scores.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.dataset import read_parquet
from dat_rec.data.schema import ITEM, RECENT, UNKNOWN, USER
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet, parquet_files

CURE = "prepare the dataset anew, or train without --warm-start"
FILES = {USER: ("users", "user_id"), ITEM: ("items", "item_id")}
"""Tables of ids: the file and the column that hold them. Others have a vocabulary."""
COUNT = "train_count"
"""Column of items.parquet: number of training interactions."""


def row_values(folder: Location, table: str, cure: str = CURE) -> pa.LargeStringArray:
    """(rows,) the id or value of each row of ``table``, as text; null for row 0, the unknown one.

    Ids that are integers and those that are text are the same where they read the same.

    Args:
        folder: a prepared dataset, or a run's copy of its rows.
        table: name of an embedding table of the schema.
        cure: what a refusal advises.

    Raises:
        UserError: a file is missing or malformed, or two rows stand for the same.
    """
    name, column = FILES.get(table, (f"vocabularies/{table}", "value"))
    index = table if table in FILES else "index"
    path = folder / f"{name}.parquet"
    found = read_parquet(path, [index, column])
    kind = found.schema.field(index).type
    if not pa.types.is_integer(kind) or found[index].null_count:
        raise UserError(f"{path}: column {index!r} is {kind}, or holds nulls: {cure}")
    rows = found[index].to_numpy()
    known = np.flatnonzero(rows != UNKNOWN)
    known = known[np.argsort(rows[known], kind="stable")]
    if not np.array_equal(rows[known], np.arange(1, len(known) + 1)):
        raise UserError(f"{path}: column {index!r} does not count the rows from 1: {cure}")
    values = _as_text(found, path, column, cure).take(pa.array(known))
    if values.null_count:
        raise UserError(f"{path}: column {column!r} holds nulls: {cure}")
    if pc.count_distinct(values).as_py() != len(values):
        counts = pc.value_counts(values)
        value = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
        raise UserError(f"{path}: column {column!r} holds {value.as_py()!r} twice: {cure}")
    return pa.concat_arrays([pa.nulls(1, pa.large_string()), values])


def ids(folder: Location, table: str, cure: str = CURE) -> pa.LargeStringArray:
    """(users or items,) the id of each row of the file, as text; of those without a row too.

    Args:
        folder: a prepared dataset.
        table: ``user`` or ``item``.
        cure: what a refusal advises.

    Raises:
        UserError: the file is missing or malformed.
    """
    name, column = FILES[table]
    path = folder / f"{name}.parquet"
    return _as_text(read_parquet(path, [column]), path, column, cure)


def _as_text(found: pa.Table, path: Location, column: str, cure: str) -> pa.LargeStringArray:
    kind = found.schema.field(column).type
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise UserError(f"{path}: column {column!r} is {kind}, not an integer or text: {cure}")
    return pc.cast(found[column], pa.large_string()).combine_chunks()


def places(values: pa.LargeStringArray, among: pa.LargeStringArray) -> NDArray[np.int64]:
    """(N,) for each of N values its place in ``among``, of ``row_values``; −1 where it has none."""
    found = pc.index_in(values, value_set=among, skip_nulls=True)
    result: NDArray[np.int64] = (
        pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    return result


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's type is one of the texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column's type is one of the lists."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def copy_rows(dataset: Location, target: Path) -> None:
    """Keep what the dataset's rows stand for, in the empty folder ``target``, a batch at a time."""
    (target / "vocabularies").mkdir(parents=True)
    for path in parquet_files(dataset / "vocabularies"):
        _copy(path, ["index", "value"], target / "vocabularies" / path.name)
    for table, (name, column) in FILES.items():
        columns = [table, column, *([COUNT] if table == ITEM else [])]
        perhaps = [RECENT] if table == ITEM else []
        _copy(dataset / f"{name}.parquet", columns, target / f"{name}.parquet", perhaps)


def keeps_counts(rows: Path) -> bool:
    """Whether a run's copy of its rows says how often each item was trained on; older ones do not.

    Raises:
        UserError: the file cannot be read.
    """
    path = rows / "items.parquet"
    if not path.exists():
        return False
    try:
        with open_parquet(path) as file:
            return COUNT in file.schema_arrow.names
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): train anew") from error


def _copy(source: Location, columns: list[str], target: Path, perhaps: Sequence[str] = ()) -> None:
    try:
        with open_parquet(source) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{source}: column {missing[0]!r} is missing: {CURE}")
            columns = columns + [name for name in perhaps if name in file.schema_arrow.names]
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            with pq.ParquetWriter(target, schema) as writer:
                for batch in file.iter_batches(columns=columns):
                    writer.write_batch(batch.select(columns))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: cannot be read as Parquet ({reason}): {CURE}") from error
