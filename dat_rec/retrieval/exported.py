"""An export's folder in, its tower, index, vectors and users out: read back, and checked.

::

    export.json         what is in the folder, versions, SHA-256 of every other file
    item_vectors.npy    (items, D) float32; row = item_index
    items.parquet       item_id, title, category_name, train_count; row = item_index
    index.faiss         exact inner-product index of the vectors; position = item_index
    users.parquet       user_id and the query features of every user
    query_tower.pt2     torch.export program: query features in, (B, D) unit vectors out
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.columns import Column, read_columns
from dat_rec.data.dataset import read_parquet
from dat_rec.data.schema import UNKNOWN, Feature
from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, read_json, sha256
from dat_rec.retrieval.query_encoder import QueryTower
from dat_rec.storage.address import Location
from dat_rec.storage.snapshot import local_copy

VERSION = 1
MANIFEST = "export.json"
FILES = ("item_vectors.npy", "items.parquet", "index.faiss", "users.parquet", "query_tower.pt2")


@dataclass(frozen=True)
class Manifest:
    """What an export's reader needs of ``export.json``."""

    version: int
    features: tuple[Feature, ...]
    """The query features."""
    sha256: dict[str, str]
    """Digest of each file, in hexadecimal."""

    __pydantic_config__ = STRICT | {"extra": "ignore"}


@dataclass(frozen=True)
class Export:
    """An export, read back and checked: N items, U known users."""

    tower: QueryTower
    index: faiss.Index
    item_vectors: NDArray[np.float32]
    """(N, D)"""
    items: pa.Table
    """item_id and title of each"""
    user_ids: pa.Array
    """(U,)"""
    user_columns: dict[str, Column]
    """Query features of U + 1 users: row U is the unknown one."""

    @staticmethod
    def open(folder: Location) -> "Export":
        """Read an export; of one in a store, its files are copied to TMPDIR meanwhile.

        Raises:
            UserError: no export, one of another version, or a file that is missing or is
                not the one that was written.
        """
        with local_copy(folder, MANIFEST) as local:
            return Export.read(local, _check(local))

    @staticmethod
    def read(folder: Path, features: Sequence[Feature]) -> "Export":
        """Read an export's files, without a look at its manifest.

        Args:
            folder: holds ``FILES``.
            features: the query features.

        Raises:
            UserError: a table cannot be read, or does not hold the features.
        """
        users = read_parquet(
            folder / "users.parquet", ["user_id", *(feature.name for feature in features)]
        )
        columns = read_columns(users, features, str(folder / "users.parquet"))
        return Export(
            tower=QueryTower(folder / "query_tower.pt2"),
            index=faiss.read_index(str(folder / "index.faiss")),
            item_vectors=np.load(folder / "item_vectors.npy"),
            items=read_parquet(folder / "items.parquet", ["item_id", "title"]),
            user_ids=users.column("user_id").combine_chunks(),
            user_columns=with_unknown(columns),
        )


def _check(folder: Path) -> Sequence[Feature]:
    """Compare every file with the manifest; the query features."""
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(
            f"{folder} is not an export (no {MANIFEST}): make one with `dat-rec export`"
        )
    value = read_json(path, "the export's manifest")
    version = value.get("version") if isinstance(value, dict) else None
    if version not in (None, VERSION):
        raise UserError(f"{path}: version {version}, this program reads {VERSION}: export anew")
    manifest = checked(Manifest, value, str(path), "export anew")
    for name in FILES:
        try:
            digest = sha256(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: {error.strerror}: export anew") from error
        if digest != manifest.sha256.get(name):
            raise UserError(
                f"{folder / name}: damaged (SHA-256 differs from {MANIFEST}): export anew"
            )
    return manifest.features


def with_unknown(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns with one row more: of the unknown row numbers, and of empty lists."""
    return {name: _one_more(column) for name, column in columns.items()}


def _one_more(column: Column) -> Column:
    if column.offsets is None:
        return Column(np.append(column.values, UNKNOWN), None)
    return Column(column.values, np.append(column.offsets, column.offsets[-1]))
