"""Item vectors in, the Parquet parts of an export that hold them out, and back.

A part's columns are ``item_id``, ``item_index`` and ``vector``. In float32 that is all of it. In
fewer bits it is the unit vector, stored as a row of a table is (``table_forms``): float16 numbers,
or int8 ones and their ``scale``, in float32. What popularity adds behind it has then a column of
its own, ``popularity``, in float32: scores follow it one to one.
"""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dat_rec.retrieval.compact import parquet_options
from dat_rec.retrieval.table_forms import SCALE, Form, stored
from dat_rec.retrieval.tower_file import MODEL_ID

Floats = NDArray[np.float32]
ITEM_INDEX, VECTOR, POPULARITY = "item_index", "vector", "popularity"
SCALE_COLUMN = SCALE.removeprefix(".")
DTYPES: dict[Form, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int8": torch.int8,
}


def vectors_table(
    ids: pa.Table,
    start: int,
    vectors_ND: Floats,
    model_id: str | None,
    form: Form = "float32",
    *,
    popularity: bool = False,
) -> pa.Table:
    """A part of item vectors.

    Args:
        ids: a column ``item_id`` of the part's items.
        start: item_index of the first of them.
        vectors_ND: their vectors.
        model_id: of the model that they are of; None in an older export.
        form: in which they are stored.
        popularity: whether they end in what popularity adds.
    """
    columns = {
        "item_id": ids.column("item_id").combine_chunks(),
        ITEM_INDEX: pa.array(np.arange(start, start + len(vectors_ND))),
    }
    if form == "float32":
        numbers, dim = pa.array(vectors_ND.ravel()), vectors_ND.shape[1]
        columns[VECTOR] = pa.FixedSizeListArray.from_arrays(numbers, dim)
    else:
        unit_ND = torch.from_numpy(vectors_ND[:, :-1] if popularity else vectors_ND)
        columns[VECTOR] = _lists(stored(unit_ND, DTYPES[form], VECTOR).numpy())
        if form == "int8":
            scale_N1 = stored(unit_ND, torch.float32, VECTOR + SCALE)
            columns[SCALE_COLUMN] = pa.array(scale_N1.numpy().ravel())
        if popularity:
            columns[POPULARITY] = pa.array(vectors_ND[:, -1])
    metadata = None if model_id is None else {MODEL_ID: model_id}
    return pa.table(columns).replace_schema_metadata(metadata)


def write_vectors(table: pa.Table, path: Path) -> None:
    """Write a part, of ``vectors_table``; those of few bits in few bytes."""
    whole = table.schema.field(VECTOR).type.value_type == pa.float32()
    pq.write_table(table, path, **({} if whole else parquet_options(table.schema)))


def dim_of(schema: pa.Schema) -> int:
    """D, of the columns of a part."""
    return int(schema.field(VECTOR).type.list_size) + (POPULARITY in schema.names)


def float_vectors(rows: pa.Table | pa.RecordBatch) -> Floats:
    """(rows, D) vectors of a part's columns, whatever their form."""
    unit_ND = as_matrix(_joined(rows.column(VECTOR)))
    if SCALE_COLUMN in rows.schema.names:
        scale_N = _joined(rows.column(SCALE_COLUMN)).to_numpy()
        unit_ND = unit_ND * scale_N[:, None]
    if POPULARITY not in rows.schema.names:
        return unit_ND
    popularity_N = _joined(rows.column(POPULARITY)).to_numpy()
    return np.concatenate([unit_ND, popularity_N[:, None]], axis=1)


def as_matrix(vectors: pa.Array) -> Floats:
    """(rows, D) float32 numbers of a column of lists, without a scale."""
    numbers: NDArray[np.generic] = vectors.flatten().to_numpy(zero_copy_only=False)
    matrix = numbers.reshape(len(vectors), vectors.type.list_size)
    return matrix.astype(np.float32, copy=False)


def read_vectors(path: Path) -> Floats:
    """Read the (rows, D) vectors of a part, whatever their form."""
    names = pq.read_schema(path).names
    own = [name for name in (VECTOR, SCALE_COLUMN, POPULARITY) if name in names]
    return float_vectors(pq.ParquetFile(path).read(own))


def vectors_digest(vectors_ND: Floats) -> str:
    """SHA-256 of the vectors' numbers."""
    return hashlib.sha256(np.ascontiguousarray(vectors_ND).data).hexdigest()


def _lists(matrix: NDArray[np.generic]) -> pa.FixedSizeListArray:
    numbers = pa.array(matrix.ravel())
    # Named as in a Parquet file: the same bytes are written of them once read.
    return pa.FixedSizeListArray.from_arrays(
        numbers, type=pa.list_(pa.field("element", numbers.type), matrix.shape[1])
    )


def _joined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
