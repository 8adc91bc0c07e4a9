"""A prepared folder, opened: its schema, its tables, the catalogue and the users as arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dat_rec.data.columns import BadIds, Column, read_columns
from dat_rec.data.dense import DenseColumn, read_dense_rows
from dat_rec.data.matched_rows import MatchedRows
from dat_rec.data.schema import ITEM, SCHEMA, USER, Schema, Side
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.storage.read import open_parquet, parquet_files
from dat_rec.storage.snapshot import pinned


@dataclass(frozen=True)
class Dataset:
    """A folder that ``dat-rec prepare`` made."""

    folder: Location
    """On a disk, or in a store, with the versions of its objects pinned."""
    schema: Schema
    bad_ids: Literal["refuse", "unknown"] = "refuse"
    """What becomes of ids outside their table in the catalogue and the users."""
    matched: MatchedRows | None = field(default=None, compare=False)
    """By which features are read in the numbers of a run that was trained on another dataset."""

    @staticmethod
    def open(folder: Location) -> "Dataset":
        """Read the folder's schema; in a store, all that is read later is of the versions of now.

        Raises:
            UserError: the folder is no prepared dataset, or its schema is malformed.
        """
        folder = pinned(folder, SCHEMA)
        return Dataset(folder, Schema.load(folder))

    def versions(self) -> str:
        """SHA-256 of the versions of its objects; empty for a folder on a disk."""
        if isinstance(self.folder, Path):
            return ""
        pins = sorted((self.folder.pins or {}).items())
        return hashlib.sha256(repr((str(self.folder), pins)).encode()).hexdigest()

    def row_digest(self) -> str:
        """SHA-256 over what every embedding row stands for: items, users, vocabularies.

        Two datasets with the same digest mean the same by each row number.
        """
        digest = hashlib.sha256()
        for path, columns in [
            (self.folder / "items.parquet", ["item_id", ITEM]),
            (self.folder / "users.parquet", ["user_id", USER]),
            *((path, ["value"]) for path in parquet_files(self.folder / "vocabularies")),
        ]:
            digest.update(path.name.encode())
            for column in read_parquet(path, columns).columns:
                for chunk in column.cast(pa.large_string()).chunks:
                    _update(digest, chunk)
        return digest.hexdigest()

    def table(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Read ``columns`` of ``name``.parquet (users, items, seen, test or validation).

        Raises:
            UserError: the file cannot be read, lacks a column, or has another number of
                rows than the schema says.
        """
        path = self.folder / f"{name}.parquet"
        table = read_parquet(path, columns)
        expected = {
            "users": self.schema.users,
            "items": self.schema.items,
            "test": self.schema.tests,
            "validation": self.schema.validation,
        }.get(name)
        if expected is not None and table.num_rows != expected:
            raise UserError(
                f"{path}: {table.num_rows} rows, schema.json says {expected}: "
                "prepare the dataset anew"
            )
        return table

    def item_columns(self, bad_ids: BadIds | None = None) -> dict[str, Column]:
        """Item features of the whole catalogue; row = item_index."""
        return self._columns("items", "item", bad_ids)

    def user_columns(self, bad_ids: BadIds | None = None) -> dict[str, Column]:
        """Query features of every user as of the split; row = user_row."""
        return self._columns("users", "query", bad_ids)

    def trained_dense(self, side: Side) -> dict[str, DenseColumn]:
        """Dense features of the trained users (query) or items: row = embedding row − 1.

        Raises:
            UserError: the file cannot be read, or holds what is no such feature.
        """
        name, table = ("users", USER) if side == "query" else ("items", ITEM)
        path = self.folder / f"{name}.parquet"
        rows = self.schema.feature(table).rows - 1
        return read_dense_rows(path, self.schema.dense_side(side), rows)

    def _columns(self, name: str, side: str, bad_ids: BadIds | None) -> dict[str, Column]:
        features = self.schema.side("item" if side == "item" else "query")
        table = self.table(name, [feature.name for feature in features])
        bad_ids = bad_ids or BadIds(self.bad_ids)
        columns = read_columns(table, features, str(self.folder / f"{name}.parquet"), bad_ids)
        if self.matched is None:
            return columns
        return self.matched.columns(columns, np.arange(table.num_rows))


def _update(digest: "hashlib._Hash", texts: pa.LargeStringArray) -> None:
    """Feed every text with its length, so that neighbours cannot be confused."""
    digest.update(pc.fill_null(pc.binary_length(texts), -1).to_numpy(zero_copy_only=False))
    _, offsets, data = texts.buffers()
    if data is not None:
        ends = np.frombuffer(offsets, np.int64)[[texts.offset, texts.offset + len(texts)]]
        digest.update(memoryview(data)[ends[0] : ends[1]])


def read_parquet(path: Location, columns: Sequence[str]) -> pa.Table:
    """Read ``columns`` of one Parquet file.

    Raises:
        UserError: the file is missing, is no Parquet, or lacks a column.
    """
    try:
        with open_parquet(path) as file:
            for name in columns:
                if (times := file.schema_arrow.names.count(name)) != 1:
                    found = "stands there twice" if times else "is missing"
                    raise UserError(f"{path}: column {name!r} {found}: write the file anew")
            return file.read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}): write it anew") from error
