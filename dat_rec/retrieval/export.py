"""A run in, a folder out that answers queries without the training code.

::

    export.json         what is in the folder, versions, SHA-256 of every other file
    item_vectors.npy    (items, D) float32; row = item_index
    items.parquet       item_id, title, category_name, train_count; row = item_index
    index.faiss         exact inner-product index of the vectors; position = item_index
    users.parquet       user_id and the query features of every user
    query_tower.pt2     torch.export program: query features in, (B, D) unit vectors out
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dat_rec.data.columns import Column, read_columns
from dat_rec.data.dataset import Dataset, read_parquet
from dat_rec.data.schema import UNKNOWN, Feature
from dat_rec.errors import UserError
from dat_rec.files import read_json, sha256, whole_folder, write_json
from dat_rec.model.dat import DAT
from dat_rec.retrieval.encode import encode_items
from dat_rec.retrieval.query_encoder import QueryEncoder, QueryTower, save_query_tower
from dat_rec.train.trained import load_model

VERSION = 1
MANIFEST = "export.json"
FILES = ("item_vectors.npy", "items.parquet", "index.faiss", "users.parquet", "query_tower.pt2")


def export(
    run: Path, out: Path, data: Path | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the run's newest checkpoint as an export, whole or not at all.

    Args:
        run: folder that ``dat-rec train`` made.
        out: the export's folder.
        data: the dataset, if it is no longer where the run found it.
        overwrite: replace an export that stands in ``out``.

    Returns:
        What export.json holds.

    Raises:
        UserError: ``out`` is taken, or the run cannot be loaded.
    """
    with whole_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        trained = load_model(run, data)
        origin = {"run": str(run), "checkpoint": trained.step}
        try:
            return write_export(trained.model, trained.dataset, folder, origin)
        except OSError as error:
            raise UserError(
                f"{out}: cannot be written ({error}): free the disk, or choose another --out"
            ) from error


def write_export(
    model: DAT, dataset: Dataset, folder: Path, origin: dict[str, Any]
) -> dict[str, Any]:
    """Fill the empty ``folder`` from a trained, unsharded model; the manifest comes last.

    Raises:
        UserError: an item vector is not finite, or the dataset is malformed.
    """
    features = dataset.schema.side("query")
    vectors = encode_items(model, dataset)
    if not np.isfinite(vectors).all():
        raise UserError("an item vector is not finite: training diverged; train anew")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    np.save(folder / "item_vectors.npy", vectors)
    (folder / "index.faiss").write_bytes(faiss.serialize_index(index).data)
    items = dataset.table("items", ["item_id", "title", "category_name", "train_count"])
    pq.write_table(items, folder / "items.parquet")
    users = dataset.table("users", ["user_id", *(feature.name for feature in features)])
    pq.write_table(users, folder / "users.parquet")
    save_query_tower(QueryEncoder(model, features), features, folder / "query_tower.pt2")
    manifest = {
        "version": VERSION,
        "dim": vectors.shape[1],
        "items": len(vectors),
        "users": users.num_rows,
        "features": [asdict(feature) for feature in features],
        "query_tower": "call with {feature: row numbers} and {feature: (B + 1,) offsets}, int64; "
        f"row {UNKNOWN} and an empty list mean unknown",
        "source": {"dataset": dataset.schema.source, **origin},
        "versions": {"torch": torch.__version__, "faiss": faiss.__version__},
        "sha256": {name: sha256(folder / name) for name in FILES},
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


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
    def open(folder: Path) -> "Export":
        """Read an export.

        Raises:
            UserError: no export, one of another version, or a file that is missing or is
                not the one that was written.
        """
        features = _check(folder)
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
            user_columns={name: _with_unknown(column) for name, column in columns.items()},
        )


def _check(folder: Path) -> list[Feature]:
    """Compare every file with the manifest; the query features."""
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(
            f"{folder} is not an export (no {MANIFEST}): make one with `dat-rec export`"
        )
    manifest = read_json(path, "the export's manifest")
    try:
        if manifest["version"] != VERSION:
            raise UserError(
                f"{path}: version {manifest['version']!r}, this program reads {VERSION}: "
                "export anew"
            )
        features = [Feature(**feature) for feature in manifest["features"]]
        digests = {name: manifest["sha256"][name] for name in FILES}
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: a field is missing or malformed ({error}): export anew"
        ) from error
    for name, digest in digests.items():
        try:
            same = sha256(folder / name) == digest
        except OSError as error:
            raise UserError(f"{folder / name}: {error.strerror}: export anew") from error
        if not same:
            raise UserError(
                f"{folder / name}: damaged (SHA-256 differs from {MANIFEST}): export anew"
            )
    return features


def _with_unknown(column: Column) -> Column:
    """The column with one row more: the unknown row number, or an empty list."""
    if column.offsets is None:
        return Column(np.append(column.values, UNKNOWN), None)
    return Column(column.values, np.append(column.offsets, column.offsets[-1]))
