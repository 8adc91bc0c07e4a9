"""An export in, Parquet parts out that any store's own loader takes."""

from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.publish.catalogue import Catalogue
from dat_rec.retrieval.exported import PART_ROWS
from dat_rec.storage.address import Location
from dat_rec.storage.publish import whole_folder
from dat_rec.storage.read import exists, read_json
from dat_rec.storage.snapshot import pinned

ABOUT = "items.json"
"""Says what the parts hold."""


class Written(NamedTuple):
    """What ``write_parquet`` did."""

    items: int
    dim: int
    export: str
    """Digest of the export."""
    new: bool
    """Whether the folder did not hold this export already."""


def write_parquet(export: Location, out: Location, *, overwrite: bool = False) -> Written:
    """Write the items of an export as Parquet parts, whole or not at all.

    Args:
        export: folder of an export, or its address.
        out: the parts' folder, or its address: item_id, vector, title, category, train_count,
            features, and export, the export's digest.
        overwrite: whether to replace parts of another export that stand there.

    Raises:
        UserError: the export is damaged, or ``out`` is taken.
    """
    with Catalogue.open(export) as catalogue:
        found = Written(catalogue.items, catalogue.dim, catalogue.digest, new=True)
        about = {"export": found.export, "items": found.items, "dim": found.dim}
        about["score"] = "inner product with the user's vector; the higher the better"
        if _there(out) == about:
            return found._replace(new=False)
        with whole_folder(out, marker=ABOUT, overwrite=overwrite) as folder:
            try:
                _write(catalogue, folder)
            except OSError as error:
                raise UserError(
                    f"--out {out}: cannot be written ({error}): free the disk, or name another "
                    "place"
                ) from error
            write_json(folder / ABOUT, about)
        return found


def _there(out: Location) -> object:
    """What a folder says that it holds; None if there is none."""
    about = pinned(out, ABOUT) / ABOUT
    return read_json(about, "what the parts hold") if exists(about) else None


def _write(catalogue: Catalogue, folder: Path) -> None:
    writer, number, rows = None, 0, 0
    try:
        for batch in catalogue.batches():
            if writer is None or rows + batch.num_rows > PART_ROWS:
                if writer is not None:
                    writer.close()
                path = folder / f"part-{number:05}.parquet"
                writer, number, rows = pq.ParquetWriter(path, catalogue.schema), number + 1, 0
            writer.write_batch(batch)
            rows += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
