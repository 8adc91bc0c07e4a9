"""A run in, a folder out that answers queries without the training code.

What the folder holds is written in ``dat_rec.retrieval.exported``.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dat_rec.data.columns import BadIds, Column
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import UNKNOWN
from dat_rec.errors import UserError
from dat_rec.files import sha256, write_json
from dat_rec.model.dat import DAT
from dat_rec.model.towers import TowerFactory
from dat_rec.retrieval.encode import encode_items
from dat_rec.retrieval.exported import FILES, MANIFEST, VERSION
from dat_rec.retrieval.golden import check_answers
from dat_rec.retrieval.query_encoder import QueryEncoder, save_query_tower
from dat_rec.retrieval.trained import load_model
from dat_rec.storage.address import Location
from dat_rec.storage.publish import whole_folder


def export(
    run: Path,
    out: Location,
    data: Location | None = None,
    *,
    checkpoint: str = "newest",
    overwrite: bool = False,
    tower: TowerFactory | None = None,
) -> dict[str, Any]:
    """Write what serving needs of a run, whole or not at all.

    The folder holds item vectors, an index, the query tower with its tables and the users'
    features; see ``dat_rec.load_export``.

    Args:
        run: folder that ``dat_rec.train`` made.
        out: the export's folder, or its address in a store.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: which of the run's: the number of its steps, ``best`` (the lowest main loss) or
            ``newest``.
        overwrite: whether to replace an export that stands in ``out``.
        tower: the tower that the run was trained with, if it was not dat_rec's own.

    Returns:
        What export.json holds.

    Raises:
        UserError: ``out`` is taken, the run cannot be loaded, or what was written does not answer
            as the model does.

    Example:
        >>> made = dat_rec.export(Path("run"), Path("export"))
        >>> made["items"], made["dim"]
        (100, 32)
    """
    with whole_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        trained = load_model(run, data, checkpoint, tower)
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
    """Fill the empty ``folder`` from a trained, unsharded model.

    The manifest comes last, when what was written has been read back and asked.

    Raises:
        UserError: an item vector is not finite, the dataset is malformed, or what was written does
            not answer as the model does.
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
    bad_ids = BadIds(dataset.bad_ids)
    columns = dataset.user_columns(bad_ids)
    users = dataset.table("users", ["user_id", *(feature.name for feature in features)])
    for name in bad_ids.counts:
        position = users.column_names.index(name)
        users = users.set_column(position, name, _to_arrow(columns[name]))
    pq.write_table(users, folder / "users.parquet")
    save_query_tower(QueryEncoder(model, features), features, folder / "query_tower.pt2")
    check_answers(folder, model, dataset.schema, columns, vectors)
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


def _to_arrow(column: Column) -> pa.Array:
    if column.offsets is None:
        return pa.array(column.values)
    return pa.LargeListArray.from_arrays(column.offsets, column.values)
