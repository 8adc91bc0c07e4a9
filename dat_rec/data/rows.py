"""What every embedding row stands for: the id or value of each row of a table.

A dataset tells it in users.parquet, items.parquet and vocabularies/; a run keeps a copy, so
that another day's run can begin from it when the dataset is gone.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dat_rec.data.dataset import read_parquet
from dat_rec.data.schema import ITEM, UNKNOWN, USER
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet, parquet_files

CURE = "prepare the dataset anew, or train without --warm-start"
FILES = {USER: ("users", "user_id"), ITEM: ("items", "item_id")}
"""Tables of ids: the file and the column that hold them. Others have a vocabulary."""


def row_values(folder: Location, table: str) -> pa.LargeStringArray:
    """(rows,) the id or value of each row of ``table``, as text; null for row 0, the unknown one.

    Ids that are integers and those that are text are the same where they read the same.

    Args:
        folder: a prepared dataset, or a run's copy of its rows.
        table: name of an embedding table of the schema.

    Raises:
        UserError: a file is missing or malformed, or two rows stand for the same.
    """
    name, column = FILES.get(table, (f"vocabularies/{table}", "value"))
    index = table if table in FILES else "index"
    path = folder / f"{name}.parquet"
    found = read_parquet(path, [index, column])
    kind = found.schema.field(index).type
    if not pa.types.is_integer(kind) or found[index].null_count:
        raise UserError(f"{path}: column {index!r} is {kind}, or holds nulls: {CURE}")
    rows = found[index].to_numpy()
    known = np.flatnonzero(rows != UNKNOWN)
    known = known[np.argsort(rows[known], kind="stable")]
    if not np.array_equal(rows[known], np.arange(1, len(known) + 1)):
        raise UserError(f"{path}: column {index!r} does not count the rows from 1: {CURE}")
    kind = found.schema.field(column).type
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise UserError(f"{path}: column {column!r} is {kind}, not an integer or text: {CURE}")
    values = pc.cast(found[column], pa.large_string()).combine_chunks().take(pa.array(known))
    if values.null_count:
        raise UserError(f"{path}: column {column!r} holds nulls: {CURE}")
    if pc.count_distinct(values).as_py() != len(values):
        counts = pc.value_counts(values)
        value = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
        raise UserError(f"{path}: column {column!r} holds {value.as_py()!r} twice: {CURE}")
    return pa.concat_arrays([pa.nulls(1, pa.large_string()), values])


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's type is one of the texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def copy_rows(dataset: Location, target: Path) -> None:
    """Keep what the dataset's rows stand for, in the empty folder ``target``, a batch at a time."""
    (target / "vocabularies").mkdir(parents=True)
    for path in parquet_files(dataset / "vocabularies"):
        _copy(path, ["index", "value"], target / "vocabularies" / path.name)
    for table, (name, column) in FILES.items():
        _copy(dataset / f"{name}.parquet", [table, column], target / f"{name}.parquet")


def _copy(source: Location, columns: list[str], target: Path) -> None:
    try:
        with open_parquet(source) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{source}: column {missing[0]!r} is missing: {CURE}")
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            with pq.ParquetWriter(target, schema) as writer:
                for batch in file.iter_batches(columns=columns):
                    writer.write_batch(batch.select(columns))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: cannot be read as Parquet ({reason}): {CURE}") from error
