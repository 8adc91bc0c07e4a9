"""Raw values in, the towers' inputs out: of users and items that training never saw.

What becomes of each value is said by ``inputs.json`` (``raw_inputs.py``), by the rules of
docs/export.md, which are those by which ``prepare`` made the training's rows. Vocabularies are read
when they are first needed.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.columns import Column
from dat_rec.data.dataset import read_parquet
from dat_rec.data.dense import AnyColumn, DenseColumn, no_values, read_dense
from dat_rec.data.rows import is_list, is_text
from dat_rec.data.schema import ITEM, UNKNOWN, USER, DenseFeature
from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.retrieval.export_inputs import name_of
from dat_rec.retrieval.exported import ITEMS, Export, Manifest
from dat_rec.retrieval.id_rows import IdRows
from dat_rec.retrieval.queries import as_ids
from dat_rec.retrieval.raw_inputs import Inputs, RawInput
from dat_rec.retrieval.raw_values import as_numbers, as_plain, as_texts
from dat_rec.storage.address import Location

Ints = NDArray[np.int64]
FARTHEST = 1e15
"""Maximum distance of a dense value from the mean, in its scale: squares of larger ones may be
infinite in float32."""
NO_INPUTS = (
    "does not hold what raw values mean (it was made by an older release): export anew, or ask for "
    "its own users"
)


class _Bags(NamedTuple):
    """Values of B rows, as they came."""

    values: pa.Array
    """(V,) row after row, without nulls of lists."""
    offsets: Ints
    """(B + 1,)"""


class FreshInputs:
    """Turns tables of raw values into the towers' inputs.

    Args:
        where: the export's folder.
        export: whose users and items are known.
        manifest: the export's.

    Raises:
        UserError: the export does not hold what raw values mean.
    """

    def __init__(self, where: Location, export: Export, manifest: Manifest) -> None:
        if export.inputs is None:
            raise UserError(f"{where} {NO_INPUTS}")
        self._where, self._export, self._manifest = where, export, manifest
        self._inputs: Inputs = export.inputs
        self._lookups: dict[str, IdRows] = {}
        self._category: Ints | None = None

    def read_all(self) -> None:
        """Read what is read when it is first needed."""
        for one in (*self._inputs.query, *self._inputs.item):
            if one.kind in ("text", "id"):
                self._lookup(one.table)
            elif one.kind == "item_category":
                self._lookup(ITEM)
                self._categories()

    def query_columns(self, queries: pa.Table, *, others: bool = False) -> dict[str, AnyColumn]:
        """The query features of B rows; errors as of ``Recommender.fresh_vectors``.

        Args:
            queries: B rows of raw values.
            others: whether columns of no feature may stand there beside.
        """
        passed = queries.column_names if others and isinstance(queries, pa.Table) else ()
        return self._columns(queries, "queries", self._inputs.query, self._manifest.dense, passed)

    def item_columns(self, items: pa.Table) -> dict[str, AnyColumn]:
        """The item features of B new items; errors as of ``Recommender.fresh_item_vectors``."""
        inputs = tuple(one for one in self._inputs.item if one.feature != ITEM)
        dense = self._inputs.item_dense
        found = self._columns(items, "items", inputs, dense, ["item_id"])
        unknown = Column(np.full(len(items), UNKNOWN), None)
        order = [one.feature for one in self._inputs.item]
        return {name: found.get(name, unknown) for name in order}

    def user_ids(self, queries: pa.Table) -> pa.Array:
        """(B,) the users of ``user_id``, in the export's type; null where nobody is named."""
        for one in self._inputs.query:
            if one.feature == USER and one.column in queries.column_names:
                values = _bags(queries[one.column], one, "queries").values
                return self._ids(values, one, "queries")
        return pa.nulls(len(queries), self._export.user_ids.type)

    def users(self, queries: pa.Table) -> Ints:
        """(B,) where these stand in the export, −1 for all others."""
        return self._lookup(USER).of(self.user_ids(queries))

    def histories(self, queries: pa.Table) -> list[Ints]:
        """The items that the lists of item ids of each row name, as item_index."""
        inputs = [
            one
            for one in self._inputs.query
            if one.kind == "id" and one.table == ITEM and one.column in queries.column_names
        ]
        rows: list[list[Ints]] = [[np.zeros(0, np.int64)] for _ in range(len(queries))]
        for one in inputs:
            bags = _bags(queries[one.column], one, "queries")
            place = self._places(bags.values, one, "queries")
            for row, (start, stop) in zip(
                rows, zip(bags.offsets, bags.offsets[1:], strict=False), strict=True
            ):
                row.append(place[start:stop])
        return [np.unique(own[own >= 0]) for own in map(np.concatenate, rows)]

    def _columns(
        self,
        table: pa.Table,
        where: str,
        inputs: Sequence[RawInput],
        dense: Sequence[DenseFeature],
        others: Collection[str],
    ) -> dict[str, AnyColumn]:
        _check_names(table, where, list(dict.fromkeys(one.column for one in inputs)), others)
        of_dense = {one.name: one for one in dense}
        found: dict[str, AnyColumn] = {}
        for one in inputs:
            if one.kind == "dense":
                found[one.feature] = _dense(table, of_dense[one.feature], where)
            elif one.column not in table.column_names:
                found[one.feature] = _nothing(one, len(table))
            else:
                found[one.feature] = self._column(table[one.column], one, where)
        return found

    def _column(self, chunks: pa.ChunkedArray, one: RawInput, where: str) -> Column:
        bags = _bags(chunks, one, where)
        offsets = bags.offsets
        if one.latest is not None:
            bags = _latest(bags, one.latest)
            offsets = bags.offsets
        if one.kind == "text" and one.multi_valued:
            bags = _distinct(_Bags(as_texts(bags.values, one, where), offsets))
            offsets = bags.offsets
        rows = self._rows(bags.values, one, where)
        return Column(rows, offsets if one.multi_valued else None)

    def _rows(self, values: pa.Array, one: RawInput, where: str) -> Ints:
        """(V,) row numbers of values; UNKNOWN of a null, and of what the export does not know."""
        if one.kind == "number":
            numbers = as_numbers(values, one.column, where)
            row = np.searchsorted(np.array(one.edges or (), np.float64), numbers, side="right") + 1
            return np.where(np.isfinite(numbers), row, UNKNOWN).astype(np.int64)
        if one.kind == "row":
            return _own_rows(values, one, where)
        if one.kind == "text":
            return self._lookup(one.table).of(as_texts(values, one, where)) + 1
        place = self._places(values, one, where)
        if one.kind == "item_category":
            return np.where(place >= 0, self._categories()[place], UNKNOWN)
        if one.table == USER:
            user = self._export.user_columns[USER]
            assert isinstance(user, Column)
            return user.values[place].astype(np.int64)  # −1 is the unknown user
        trained = (place >= 0) & (place < self._inputs.trained_items)
        return np.where(trained, place + 1, UNKNOWN)

    def _places(self, values: pa.Array, one: RawInput, where: str) -> Ints:
        """(V,) where the users or items stand in the export; −1 for a null or an unknown one."""
        table = USER if one.table == USER else ITEM
        return self._lookup(table).of(self._ids(values, one, where))

    def _ids(self, values: pa.Array, one: RawInput, where: str) -> pa.Array:
        """(V,) ids in the type of the export's; null for none."""
        table, wanted = USER, self._export.user_ids.type
        if one.table != USER:
            table, wanted = ITEM, self._export.items.schema.field("item_id").type
        plain = as_plain(values)
        if pa.types.is_null(plain.type):
            return plain.cast(wanted)
        if pa.types.is_floating(plain.type):
            plain = pc.if_else(pc.is_nan(plain), pa.scalar(None, plain.type), plain)
        missing = plain.is_null()
        if plain.null_count and not pa.types.is_boolean(plain.type):
            plain = plain.fill_null("" if is_text(plain.type) else 0)
        ids = as_ids(where, one.column, plain, wanted, f"{table}_id")
        return pc.if_else(missing, pa.scalar(None, wanted), ids)

    def _lookup(self, table: str) -> IdRows:
        """What finds the rows of a table's values; they count from 0."""
        if table == USER:
            return self._export.rows_of_users
        if table == ITEM:
            return self._export.rows_of_items
        if table not in self._lookups:
            listed = self._read(name_of(table), ["index", "value"]).sort_by("index")
            self._lookups[table] = IdRows(listed["value"].combine_chunks()[1:])
        return self._lookups[table]

    def _categories(self) -> Ints:
        """(N,) the row of each item's category."""
        if self._category is None:
            feature = self._inputs.category
            texts = self._read(ITEMS, [feature.name])[feature.name].combine_chunks()
            self._category = self._lookup(feature.table).of(texts) + 1
        return self._category

    def _read(self, name: str, columns: list[str]) -> pa.Table:
        """Columns of one of the export's files, which must still be the one that was opened."""
        path = self._where / name
        table = read_parquet(path, columns)
        if isinstance(path, Path) and sha256(path) != self._manifest.sha256.get(name):
            raise UserError(f"{path}: is another export's by now: open it anew")
        return table


def _check_names(
    table: pa.Table, where: str, known: Sequence[str], others: Collection[str]
) -> None:
    if not isinstance(table, pa.Table):
        raise UserError(f"{where}: is {type(table).__name__}: give an Arrow table")
    for name in table.column_names:
        if table.column_names.count(name) != 1:
            raise UserError(f"{where}: column {name!r} stands there twice: give each once")
        if name not in known and name not in others:
            raise UserError(
                f"{where}: column {name!r} is of no feature: the features' columns are "
                f"{', '.join(known)}"
            )


def _nothing(one: RawInput, rows: int) -> Column:
    if one.multi_valued:
        return Column(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64))
    return Column(np.full(rows, UNKNOWN), None)


def _bags(chunks: pa.ChunkedArray, one: RawInput, where: str) -> _Bags:
    """A column's values; of lists, a null is an empty one, and nulls in them are left out."""
    array = as_plain(chunks.combine_chunks())
    kind = array.type
    listed = is_list(kind)
    if not one.multi_valued:
        if listed:
            raise UserError(f"{where}: column {one.column!r} is {kind}: give one value in each row")
        return _Bags(array, np.arange(len(array) + 1))
    if pa.types.is_null(kind):
        return _Bags(array[:0], np.zeros(len(array) + 1, np.int64))
    if not listed:
        raise UserError(f"{where}: column {one.column!r} is {kind}: give a list in each row")
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    flat = as_plain(array.flatten())
    if pa.types.is_floating(flat.type):
        flat = pc.if_else(pc.is_nan(flat), pa.scalar(None, flat.type), flat)
    if flat.null_count:
        there = flat.is_valid()
        counts = np.append(0, np.cumsum(there.to_numpy(zero_copy_only=False)))
        return _Bags(flat.filter(there), counts[np.append(0, np.cumsum(lengths))].astype(np.int64))
    return _Bags(flat, np.append(0, np.cumsum(lengths)).astype(np.int64))


def _latest(bags: _Bags, most: int) -> _Bags:
    """The last ``most`` values of each list."""
    lengths = np.diff(bags.offsets)
    if not len(lengths) or lengths.max() <= most:
        return bags
    from_end = np.repeat(bags.offsets[1:], lengths) - np.arange(bags.offsets[-1])
    offsets = np.append(0, np.cumsum(np.minimum(lengths, most)))
    return _Bags(bags.values.filter(pa.array(from_end <= most)), offsets)


def _distinct(bags: _Bags) -> _Bags:
    """Each list's values once, where they first stand; empty texts are none."""
    found, offsets = [], [0]
    texts = bags.values.to_pylist()
    for start, stop in zip(bags.offsets, bags.offsets[1:], strict=False):
        found += list(dict.fromkeys(text for text in texts[start:stop] if text))
        offsets.append(len(found))
    return _Bags(pa.array(found, pa.large_string()), np.array(offsets, np.int64))


def _own_rows(values: pa.Array, one: RawInput, where: str) -> Ints:
    """Row numbers that were given as such."""
    if pa.types.is_null(values.type):
        return np.full(len(values), UNKNOWN)
    if not pa.types.is_integer(values.type):
        raise UserError(
            f"{where}: column {one.column!r} is {values.type}: the dataset had no vocabulary of "
            f"it: give the rows of its table, 0 … {one.rows - 1}"
        )
    rows = values.fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
    if len(rows) and not 0 <= rows.min() <= rows.max() < one.rows:
        bad = rows[(rows < 0) | (rows >= one.rows)][0]
        raise UserError(
            f"{where}: column {one.column!r} holds row {bad}, outside its table: give 0 … "
            f"{one.rows - 1}"
        )
    return np.asarray(rows, np.int64)


def _dense(table: pa.Table, feature: DenseFeature, where: str) -> DenseColumn:
    if feature.name not in table.column_names:
        return no_values(feature, len(table))
    array = as_plain(table[feature.name].combine_chunks())
    if pa.types.is_null(array.type):
        return no_values(feature, len(table))
    if feature.kind == "number":
        numbers = pa.array(as_numbers(array, feature.name, where), from_pandas=True)
        columns = {feature.name: numbers}
    else:
        columns = {feature.name: _float_lists(array, feature, where)}
    found = read_dense(pa.table(columns), [feature], where, cure="correct it")[feature.name]
    far = np.abs(found.values - feature.mean) > FARTHEST * feature.scale
    if len(rows := np.flatnonzero(far.any(axis=1))):
        raise UserError(
            f"{where}: column {feature.name!r} holds {found.values[rows[0]][far[rows[0]]][0]:g}, "
            "too far from all that training saw: correct it"
        )
    return found


def _float_lists(array: pa.Array, feature: DenseFeature, where: str) -> pa.Array:
    kind = array.type
    inner = getattr(kind, "value_type", None)
    if inner is None or not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise UserError(
            f"{where}: column {feature.name!r} is {kind}: give a list of {feature.width} numbers "
            "in each row"
        )
    # A view's values may stand in any order, which a cast passes over.
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int64())
    flat = array.flatten().cast(pa.float32(), safe=False)
    return pa.LargeListArray.from_arrays(offsets, flat, mask=array.is_null())
