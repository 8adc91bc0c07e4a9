"""Some of an export's users in, questions and answers out, by which any runtime checks itself.

``golden.parquet`` has a row for each: ``raw``, the values as the log has them; ``rows``, what the
query tower takes of them; ``vector``, and ``item_ids`` and ``scores`` of the best items.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.columns import Column
from dat_rec.data.dataset import Dataset
from dat_rec.data.dense import AnyColumn, DenseColumn
from dat_rec.data.schema import UNKNOWN, USER
from dat_rec.retrieval.export_inputs import name_of
from dat_rec.retrieval.exported import GOLDEN, ITEMS, TOWER, open_index
from dat_rec.retrieval.feature_rows import FeatureRows, RowGroups
from dat_rec.retrieval.raw_inputs import IDS, Inputs, RawInput
from dat_rec.retrieval.search import top_items
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.storage.address import Location

K = 20
"""Number of items that each query is answered with."""
Ints = NDArray[np.int64]


def write_golden(dataset: Dataset, rows: Ints, folder: Path) -> None:
    """Ask what was written for users, and write question and answer.

    A user whose rows no raw value stands for (ids that were trained as unknown) is left out.

    Args:
        dataset: of the export.
        rows: numbers of users, rising.
        folder: the export's, with towers, index, inputs and vocabularies.

    Raises:
        UserError: a file cannot be read, or the query tower gives what is not finite.
    """
    inputs = Inputs.load(folder)
    users = FeatureRows(dataset, "users")
    columns = users.take(rows)
    told = np.flatnonzero([_told(inputs, columns, number) for number in range(len(rows))])
    columns = {name: column.take(told) for name, column in columns.items()}
    ids = _taken(dataset.folder / "users.parquet", "user_id", rows[told])
    query_BD = QueryTower(folder / TOWER).encode(columns)
    index, item_ND = open_index(folder)
    k = min(K, len(item_ND))
    items_BK, scores_BK = top_items(index, item_ND, query_BD, k)
    best = _taken(folder / ITEMS, "item_id", items_BK.ravel())
    raw = {USER: ids, **_raw(inputs, columns, dataset, folder)}
    names = {one.feature: one.column for one in inputs.query}
    table = {
        "raw": _struct({names[feature]: values for feature, values in raw.items()}),
        "rows": _struct({name: _to_arrow(column) for name, column in columns.items()}),
        "vector": _lists(pa.array(query_BD.ravel()), query_BD.shape[1]),
        "item_ids": _lists(best, k),
        "scores": _lists(pa.array(scores_BK.ravel()), k),
    }
    pq.write_table(pa.table(table), folder / GOLDEN, compression="zstd")


def golden_problem(folder: Path, tower: QueryTower, rounding: float) -> str:
    """What a runtime says otherwise than the golden queries, in words; empty if nothing.

    Args:
        folder: the export's.
        tower: that is asked; it is given ``rows``.
        rounding: by how much a number of a vector may differ.

    Raises:
        UserError: the tower gives what is not finite.
    """
    table = pq.read_table(folder / GOLDEN)
    if not len(table):
        return ""
    columns = columns_of(table["rows"].combine_chunks())
    wanted_BD = _matrix(table["vector"])
    off = np.abs(tower.encode(columns) - wanted_BD).max()
    if not off <= rounding:
        return f"golden.parquet: a vector is off by {off:.2g}"
    index, item_ND = open_index(folder)
    scores_BK = _matrix(table["scores"])
    items_BK, found_BK = top_items(index, item_ND, wanted_BD, scores_BK.shape[1])
    ids = _taken(folder / ITEMS, "item_id", items_BK.ravel())
    if not ids.equals(table["item_ids"].combine_chunks().flatten()):
        return "golden.parquet: other items are the best"
    off = np.abs(found_BK - scores_BK).max()
    return "" if off <= rounding else f"golden.parquet: a score is off by {off:.2g}"


def columns_of(rows: pa.StructArray) -> dict[str, AnyColumn]:
    """The query features of the column ``rows``."""
    return {field.name: _column(rows.field(field.name)) for field in rows.type}


def _column(values: pa.Array) -> AnyColumn:
    kind = values.type
    if pa.types.is_floating(kind):
        return DenseColumn(values.to_numpy(zero_copy_only=False)[:, None])
    if pa.types.is_fixed_size_list(kind):
        found = np.full((len(values), kind.list_size), np.nan, np.float32)
        known = values.is_valid().to_numpy(zero_copy_only=False)
        flat = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
        found[known] = flat
        return DenseColumn(found)
    if pa.types.is_large_list(kind):
        ends = np.append(0, np.cumsum(values.value_lengths().to_numpy(zero_copy_only=False)))
        return Column(values.flatten().to_numpy(), ends.astype(np.int64))
    return Column(values.to_numpy(), None)


def _told(inputs: Inputs, columns: Mapping[str, AnyColumn], number: int) -> bool:
    """Whether raw values stand for a user's rows: an unknown one in a list has none."""
    for one in inputs.query:
        if one.multi_valued and one.kind in ("id", "text"):
            bag = columns[one.feature].take(np.array([number]))
            if isinstance(bag, Column) and (bag.values == UNKNOWN).any():
                return False
    return True


def _raw(
    inputs: Inputs, columns: Mapping[str, AnyColumn], dataset: Dataset, folder: Path
) -> dict[str, pa.Array]:
    """Raw values of which the inputs make these rows, by feature."""
    found = {}
    for one in inputs.query:
        column = columns[one.feature]
        if one.feature == USER or one.kind == "item_category":
            continue
        if isinstance(column, DenseColumn):
            found[one.feature] = _to_arrow(column)
            continue
        values = _raw_values(one, column.values.astype(np.int64), dataset, folder)
        if column.offsets is not None:
            values = pa.LargeListArray.from_arrays(column.offsets, values)
        found[one.feature] = values
    return found


def _raw_values(one: RawInput, rows: Ints, dataset: Dataset, folder: Path) -> pa.Array:
    if one.kind == "row":
        return pa.array(rows)
    if one.kind == "number":
        edges = one.edges or ()
        first = math.nextafter(edges[0], -math.inf) if edges else 0.0
        starts = [None, first, *edges]
        return pa.array([starts[row] for row in rows.tolist()], pa.float64())
    if one.kind == "id":
        path = dataset.folder / f"{one.table}s.parquet"
        values = _taken(path, IDS[one.table], np.maximum(rows, 1) - 1)
    else:
        listed = pq.read_table(
            folder / name_of(one.table), filters=pc.is_in(pc.field("index"), pa.array(rows))
        )
        place = pc.index_in(pa.array(rows), value_set=listed["index"].combine_chunks())
        values = listed["value"].combine_chunks().take(place)
    return pc.if_else(pa.array(rows != UNKNOWN), values, pa.scalar(None, values.type))


def _taken(path: Location, column: str, rows: Ints) -> pa.Array:
    """A column of some rows of a file, which may be asked for in any order, and twice."""
    source = RowGroups(path, [column])
    asked, place = np.unique(rows, return_inverse=True)
    parts = [source.read_rows(0, 0)]
    parts += [source.read(group).take(pa.array(own)) for group, own in source.groups_of(asked)]
    return pa.concat_tables(parts)[column].combine_chunks().take(pa.array(place))


def _struct(columns: Mapping[str, pa.Array]) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(columns.values()), list(columns))


def _lists(values: pa.Array, width: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(values, width)


def _matrix(lists: pa.ChunkedArray) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = lists.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(lists), -1)


def _to_arrow(column: AnyColumn) -> pa.Array:
    if isinstance(column, DenseColumn):
        missing = np.isnan(column.values[:, 0])
        if column.values.dtype == np.float64:
            return pa.array(column.values[:, 0], mask=missing)
        values = pa.array(column.values.ravel())
        width = column.values.shape[1]
        return pa.FixedSizeListArray.from_arrays(values, width, mask=pa.array(missing))
    if column.offsets is None:
        return pa.array(column.values)
    return pa.LargeListArray.from_arrays(column.offsets, column.values)
