"""An export in, what a vector store takes out: its items, batch by batch, and some real queries.

A row is ``item_id``, ``vector`` (D float32), ``title``, ``category``, ``train_count``, then the
features of items.parquet, each with its type, and ``export``, the digest of the export, by which a
reader knows that a query's vector is of the same model.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.dataset import read_parquet
from dat_rec.data.dense import read_all
from dat_rec.errors import UserError
from dat_rec.retrieval.distinct import encode_once
from dat_rec.retrieval.exported import (
    ITEM_PARTS,
    ITEMS,
    MANIFEST,
    TOWER,
    USER_PARTS,
    Manifest,
    check_files,
    part_name,
    read_manifest,
    with_unknown,
)
from dat_rec.retrieval.item_table import CATEGORY, CATEGORY_NAME, ID
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.retrieval.vector_parts import as_matrix, dim_of, float_vectors
from dat_rec.storage.address import Location
from dat_rec.storage.snapshot import local_copy

VECTOR, EXPORT = "vector", "export"
OWN = (ID, VECTOR, "title", CATEGORY, "train_count", EXPORT)
"""Columns that every catalogue has; a feature of such a name is called ``feature_NAME``."""
DIGITS = 12
"""Hexadecimal digits of an export's digest."""
BATCH_BYTES, BATCH_ROWS = 4 * 2**20, 4096
"""Maximum bytes of the vectors in a batch, and of its rows."""
USERS = 32
"""Number of users of the export who ask the store; one who is unknown asks, too."""


@dataclass(frozen=True)
class Catalogue:
    """The items of an export, read from its files when they are asked for."""

    folder: Path
    """The export's, on a disk."""
    manifest: Manifest
    digest: str
    """``DIGITS`` digits that tell exports apart: of the SHA-256 of all their files."""
    items: int
    """N"""
    dim: int
    """D"""
    schema: pa.Schema
    """Of the batches: int64 or text ids, fixed lists of D float32, then int64, double, bool, text,
    or lists of text."""

    @staticmethod
    @contextmanager
    def open(where: Location) -> Iterator["Catalogue"]:
        """Yield the catalogue of an export; one in a store is copied to TMPDIR meanwhile.

        Raises:
            UserError: no export, a damaged one, or a column of a type that no store is given.
        """
        with local_copy(where, MANIFEST) as folder:
            manifest = read_manifest(folder)
            check_files(folder, manifest)
            names = json.dumps(sorted(manifest.sha256.items()))
            digest = hashlib.sha256(names.encode()).hexdigest()[:DIGITS]
            vectors = pq.read_schema(folder / part_name(ITEM_PARTS, 0))
            items = pq.ParquetFile(folder / ITEMS)
            dim = dim_of(vectors)
            schema = _schema(items.schema_arrow, dim, str(folder / ITEMS))
            rows = items.metadata.num_rows
            yield Catalogue(folder, manifest, digest, rows, dim, schema)

    @property
    def features(self) -> list[pa.Field]:
        """The fields of the features."""
        return [field for field in self.schema if field.name not in OWN]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The items in their order, a few MB at a time.

        Raises:
            UserError: items.parquet is of other items than the vectors.
        """
        path, start = self.folder / ITEMS, 0
        rows = _Rows(path, _batch_rows(self.dim))
        for name in self._vector_parts():
            for part in pq.ParquetFile(self.folder / name).iter_batches(_batch_rows(self.dim)):
                table = rows.take(part.num_rows)
                if not table[ID].combine_chunks().equals(part.column(ID)):
                    raise UserError(f"{path}: row {start + 1} …: of other items than {name}")
                start += part.num_rows
                yield self._batch(table, float_vectors(part))

    def vectors(self) -> Iterator[tuple[pa.Array, NDArray[np.float32]]]:
        """(B,) ids and (B, D) vectors, batch by batch."""
        for name in self._vector_parts():
            file = pq.ParquetFile(self.folder / name)
            for part in file.iter_batches(_batch_rows(self.dim)):
                yield _plain(part.column(ID)), float_vectors(part)

    def queries(self) -> NDArray[np.float32]:
        """(Q, D) vectors of some users of the export's first part, and of one who is unknown."""
        features, dense = self.manifest.features, self.manifest.dense
        path = self.folder / part_name(USER_PARTS, 0)
        users = read_parquet(path, [*(one.name for one in features), *(one.name for one in dense)])
        rows = np.unique(np.linspace(0, max(0, len(users) - 1), USERS).astype(np.int64))
        users = users.take(pa.array(rows[: len(users)]))
        columns = with_unknown(read_all(users, features, dense, str(path)))
        encode = QueryTower(self.folder / TOWER).encode
        return encode_once(columns, np.arange(len(users) + 1), encode, USERS)

    def _vector_parts(self) -> list[str]:
        return sorted(name for name in self.manifest.sha256 if name.startswith(f"{ITEM_PARTS}/"))

    def _batch(self, table: pa.Table, vectors_BD: NDArray[np.float32]) -> pa.RecordBatch:
        sources = dict(zip(_names(table.schema), table.columns, strict=True))
        columns: list[pa.Array] = []
        for field in self.schema:
            if field.name == VECTOR:
                numbers = pa.array(vectors_BD.ravel())
                columns.append(pa.FixedSizeListArray.from_arrays(numbers, type=field.type))
            elif field.name == EXPORT:
                columns.append(pa.repeat(pa.scalar(self.digest, field.type), table.num_rows))
            else:
                columns.append(_cast(sources[field.name].combine_chunks(), field))
        return pa.record_batch(columns, schema=self.schema)


class _Rows:
    """A Parquet file's rows, as many as are asked for at a time."""

    def __init__(self, path: Path, at_once: int) -> None:
        self._path = path
        self._batches = pq.ParquetFile(path).iter_batches(at_once)
        self._ready: list[pa.RecordBatch] = []

    def take(self, count: int) -> pa.Table:
        while sum(batch.num_rows for batch in self._ready) < count:
            batch = next(self._batches, None)
            if batch is None:
                raise UserError(f"{self._path}: has fewer rows than there are vectors: export anew")
            self._ready.append(batch)
        table = pa.Table.from_batches(self._ready)
        self._ready = table.slice(count).to_batches()
        return table.slice(0, count)


def as_rows(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """The rows of a batch, with their vectors as (D,) float32 arrays."""
    rows: list[dict[str, object]] = batch.drop_columns([VECTOR]).to_pylist()
    for row, vector in zip(rows, as_matrix(batch.column(VECTOR)), strict=True):
        row[VECTOR] = vector
    return rows


def _batch_rows(dim: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * dim)))


def _names(items: pa.Schema) -> list[str]:
    """What the columns of items.parquet are called in a store."""
    category = CATEGORY_NAME if CATEGORY not in items.names else CATEGORY
    found = [CATEGORY if name == category else name for name in items.names]
    clash = (VECTOR, EXPORT)
    return [f"feature_{name}" if name.lower() in clash else name for name in found]


def _schema(items: pa.Schema, dim: int, where: str) -> pa.Schema:
    kinds = {
        name: _kind(field, where)
        for name, field in zip(_names(items), items, strict=True)
        if name not in (VECTOR, EXPORT)
    }
    vector = pa.list_(pa.float32(), dim)
    first = [name for name in OWN if name in kinds]
    features = [name for name in kinds if name not in OWN]
    fields = [(name, kinds[name]) for name in (*first, *features)]
    return pa.schema([fields[0], (VECTOR, vector), *fields[1:], (EXPORT, pa.string())])


def _kind(field: pa.Field, where: str) -> pa.DataType:
    """The type of a column in a store."""
    kind = field.type
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_boolean(kind):
        return pa.bool_()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if lists and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
        return pa.list_(pa.string())
    raise UserError(f"{where}: column {field.name!r} is {kind}: publish knows no such type")


def _cast(column: pa.Array, field: pa.Field) -> pa.Array:
    """The column in its type; a number that is not one is missing."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, None)
    return column.cast(field.type)


def _plain(ids: pa.Array) -> pa.Array:
    return ids.cast(pa.int64() if pa.types.is_integer(ids.type) else pa.string())
