"""Two matrices in, their difference out; the base and the difference in, the matrix out.

The files are those of ``rows.py``; ``changed.parquet`` holds the rows as lists of float32. Matrices
are mapped from files, and go block by block: both files have a row group for each block.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.delta.rows import (
    BLOCK_ROWS,
    CHANGED,
    NONE,
    ORDER,
    Rows,
    as_base_rows,
    write_order,
)
from dat_rec.retrieval.distinct import vector_hashes

Matrix = NDArray[np.float32]


def alike_rows(new_ND: Matrix, base_MD: Matrix) -> Rows:
    """(N,): a row of the base with the same hash: the same row if possible, −1 if there is none.

    So rows are found again whatever number they have got, without ids.
    """
    rows = np.full(len(new_ND), NONE)
    if new_ND.shape[1] != base_MD.shape[1] or not len(base_MD):
        return rows
    ours, theirs = _hashes(new_ND), _hashes(base_MD)
    order = np.argsort(theirs, kind="stable")
    place = np.minimum(np.searchsorted(theirs[order], ours), len(theirs) - 1)
    found = theirs[order[place]] == ours
    rows[found] = order[place[found]]
    common = min(len(ours), len(theirs))
    stayed = np.flatnonzero(ours[:common] == theirs[:common])
    rows[stayed] = stayed
    return rows


def write_matrix_difference(
    folder: Path,
    new_ND: Matrix,
    base_MD: Matrix,
    candidates: Rows,
    name: str,
    ids: pa.ChunkedArray | None = None,
) -> None:
    """Write a matrix's order and changed rows.

    Args:
        folder: to be made.
        new_ND: the matrix.
        base_MD: the base's.
        candidates: (N,) the base's row that each is compared with, −1 for none.
        name: of the column of lists.
        ids: (N,) of the rows, a column ``item_id`` before it; without it there is none.
    """
    folder.mkdir(parents=True)
    if new_ND.shape[1] != base_MD.shape[1]:
        base_MD, candidates = new_ND[:0], np.full(len(new_ND), NONE)
    kind = pa.list_(pa.float32(), new_ND.shape[1])
    columns = {} if ids is None else {"item_id": ids.type}
    schema = pa.schema(columns | {name: kind})
    leaf = f"{name}.list.element"
    blocks = []
    with pq.ParquetWriter(
        folder / CHANGED,
        schema,
        compression="zstd",
        use_dictionary=list(columns),
        use_byte_stream_split=[leaf],
    ) as writer:
        for start in range(0, max(1, len(new_ND)), BLOCK_ROWS):
            block_BD = np.ascontiguousarray(new_ND[start : start + BLOCK_ROWS])
            rows = candidates[start : start + BLOCK_ROWS].copy()
            known = np.flatnonzero(rows != NONE)
            ours, theirs = (one.view(np.uint32) for one in (block_BD[known], base_MD[rows[known]]))
            rows[known[(ours != theirs).any(axis=1)]] = NONE
            blocks.append(rows)
            changed = np.flatnonzero(rows == NONE)
            lists = pa.FixedSizeListArray.from_arrays(
                pa.array(block_BD[changed].ravel()), block_BD.shape[1]
            )
            own = [] if ids is None else [ids.take(pa.array(start + changed))]
            table = pa.table([*own, lists], schema=schema)
            writer.write_table(table, row_group_size=max(1, len(table)))
    write_order(folder / ORDER, blocks)


def new_blocks(folder: Path, base_MD: Matrix, name: str) -> Iterator[Matrix]:
    """The new matrix, block by block.

    Args:
        folder: of ``write_matrix_difference``.
        base_MD: the base's.
        name: of the column of lists.

    Raises:
        UserError: the files do not fit each other or the base.
    """
    order, changed = pq.ParquetFile(folder / ORDER), pq.ParquetFile(folder / CHANGED)
    dim = changed.schema_arrow.field(name).type.list_size
    if order.num_row_groups != changed.num_row_groups:
        raise UserError(f"{folder / ORDER}: does not fit {CHANGED}: make the delta anew")
    for group in range(order.num_row_groups):
        lists = changed.read_row_group(group, [name])[name].combine_chunks()
        rows = as_base_rows(order.read_row_group(group), len(base_MD), len(lists), folder / ORDER)
        block_BD = np.empty((len(rows), dim), np.float32)
        known = rows != NONE
        if known.any():
            if base_MD.shape[1] != dim:
                raise UserError(f"{folder / ORDER}: the base's rows are not as wide")
            block_BD[known] = base_MD[rows[known]]
        block_BD[~known] = lists.flatten().to_numpy().reshape(-1, dim)
        yield block_BD


def rows_of(folder: Path) -> int:
    """N, the number of rows of the new matrix."""
    return int(pq.ParquetFile(folder / ORDER).metadata.num_rows)


def width_of(folder: Path, name: str) -> int:
    """D, the width of the new matrix."""
    return int(pq.ParquetFile(folder / CHANGED).schema_arrow.field(name).type.list_size)


def _hashes(matrix_ND: Matrix) -> NDArray[np.uint64]:
    """(N,) one for each row; what has the same is compared later."""
    # Words of int8 or float16 read as any float32, as no number too.
    with np.errstate(invalid="ignore"):
        blocks = [
            vector_hashes(np.ascontiguousarray(matrix_ND[start : start + BLOCK_ROWS]))[:, 0]
            for start in range(0, len(matrix_ND), BLOCK_ROWS)
        ]
    return np.concatenate([np.empty(0, np.uint64), *blocks])
