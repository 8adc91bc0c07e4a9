"""A dataset's pairs and past in, the parts of the next one's out: old ones are not written anew.

seen.parquet and past.parquet grow with all days. A dataset that follows another one takes over
that one's files as parts, by a hard link where the disk allows, and writes what is new as one more.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.digests import DIGESTS
from dat_rec.data.prepare.base import Base
from dat_rec.data.prepare.write import QUICK, ROW_GROUP, write_batches
from dat_rec.data.schema import USER
from dat_rec.data.source import SEQUENCE
from dat_rec.files import read_json, whole_file


def part_names(name: str, parts: int) -> tuple[str, ...]:
    """The paths of the parts of a file, below the folder."""
    return tuple(f"{name}/part-{number:05}.parquet" for number in range(parts))


def take_over(source: Path, target: Path) -> None:
    """Let ``target``, if it is not there, be the file ``source``, or a copy on another disk."""
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with whole_file(target) as partial:
            shutil.copyfile(source, partial)


def known_digests(base: Base, folder: Path) -> dict[str, str]:
    """The SHA-256 of the files that are the dataset's own, by their paths, as it tells them."""
    path = base.folder / DIGESTS
    told = read_json(path, "the digests") if path.exists() else {}
    return {
        target: told[source]
        for source, target in _shared(base)
        if source in told
        and (folder / target).exists()
        and (folder / target).samefile(base.folder / source)
    }


def _shared(base: Base) -> Iterator[tuple[str, str]]:
    """The dataset's parts, and what they are called in the one that follows it."""
    for name, old in (("seen", base.schema.seen_paths), ("past", base.schema.past_paths)):
        yield from zip(old, part_names(name, len(old)), strict=True)


def write_past(base: Base, path: Path) -> int:
    """Write the dataset's examples as interactions of the past, and return their number."""
    if path.exists():
        return int(pq.read_metadata(path).num_rows)
    sequence = [SEQUENCE] if base.sequence else []
    integers = [("user_row", pa.int32()), ("item_index", pa.int32()), ("time", pa.int64())]
    schema = pa.schema([*integers, *((name, pa.int64()) for name in sequence)])

    def batches() -> Iterator[pa.RecordBatch]:
        for file in base.examples:
            columns = [USER, "item_index", "time", *sequence]
            for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP, columns=columns):
                user = pa.array(batch[USER].to_numpy().astype(np.int32) - np.int32(1))
                rest = [batch[name] for name in columns[1:]]
                arrays = [
                    array.cast(field.type)
                    for array, field in zip([user, *rest], schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    path.parent.mkdir(exist_ok=True)
    return write_batches(batches(), schema, path, compression=QUICK)


def take_over_all(base: Base, folder: Path) -> None:
    """Take over all parts of the dataset."""
    for source, target in _shared(base):
        take_over(base.folder / source, folder / target)
