"""A base export and a delta in, the files of the full export out.

Each file is given whole, is the base's, or is made of rows: Parquet files anew, row group by row
group as the export wrote them, ``index.faiss`` of the vectors, as faiss lays them out.
"""

import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.retrieval.compact import parquet_options
from dat_rec.retrieval.delta.delta_folder import (
    FORGOTTEN,
    ITEM_TOWER_PARTS,
    RESULT,
    TOWER_PARTS,
    TOWERS,
    WHOLE,
)
from dat_rec.retrieval.delta.matrices import new_blocks, rows_of, width_of
from dat_rec.retrieval.delta.rows import NewRows, read_difference, read_parts
from dat_rec.retrieval.delta.tower import write_new_tower
from dat_rec.retrieval.exported import (
    ANN,
    ANN_EQUAL,
    DELTA,
    GOLDEN,
    INDEX,
    ITEM_PARTS,
    ITEM_TOWER,
    ITEMS,
    OWN_PARTS,
    RUNTIME_FILES,
    SEEN_PARTS,
    TOWER,
    USER_PARTS,
    read_manifest,
)
from dat_rec.retrieval.item_index import read_index, write_index
from dat_rec.retrieval.raw_inputs import INPUTS, VOCABULARIES
from dat_rec.retrieval.vector_parts import ITEM_INDEX, VECTOR, vectors_table, write_vectors

ITEM_ROWS = "items"
TABLES = (ITEM_ROWS, USER_PARTS, SEEN_PARTS, OWN_PARTS)
"""Kinds of files that are tables of rows with ids."""
IDS = {ITEM_ROWS: "item_id", USER_PARTS: "user_id"}
"""Whose ids are told that were forgotten, and the column that holds them."""
Digests = Mapping[str, str]


class Files(NamedTuple):
    """An export's files."""

    folder: Path
    sha256: Digests
    """By name."""

    def of_kind(self, kind: str) -> list[str]:
        """The names of those whose difference stands in a folder of the delta, in order."""
        return sorted(name for name in self.sha256 if kind_of(name) == kind)

    def table(self, kind: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a kind of files; of no columns if there are none."""
        paths = [self.folder / name for name in self.of_kind(kind)]
        return read_parts(paths, columns) if paths else pa.table({})


def kind_of(name: str) -> str:
    """The folder of a delta that holds the difference of an export's file, or the file itself."""
    alone = {ITEMS: ITEM_ROWS, INDEX: ITEM_PARTS, TOWER: TOWER_PARTS, ITEM_TOWER: ITEM_TOWER_PARTS}
    folder = alone.get(name) or name.partition("/")[0]
    whole = (INPUTS, VOCABULARIES, GOLDEN, ANN, ANN_EQUAL, *RUNTIME_FILES)
    return WHOLE if folder in whole else folder


def kinds_to_make(base: Files, new: Files) -> list[str]:
    """The kinds of files of which some are not the base's, in order."""
    others = [name for name, digest in new.sha256.items() if base.sha256.get(name) != digest]
    return sorted({kind_of(name) for name in others})


def rebuild(base: Files, delta: Path, new: Files, row_groups: Mapping[str, Sequence[int]]) -> None:
    """Write all files of an export but export.json.

    Args:
        base: that the delta was made against.
        delta: the delta's folder.
        new: the folder to fill, and the digests of the files that it shall hold; whoever calls
            compares them (``wrong_files``).
        row_groups: numbers of rows in those of the Parquet files that are made of rows.

    Raises:
        UserError: the delta does not fit the base.
    """
    to_make: dict[str, list[str]] = {}
    for name in sorted(new.sha256):
        (new.folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (whole := delta / WHOLE / name).exists():
            shutil.copyfile(whole, new.folder / name)
        elif base.sha256.get(name) == new.sha256[name]:
            shutil.copyfile(base.folder / name, new.folder / name)
        else:
            to_make.setdefault(kind_of(name), []).append(name)
    for kind, names in to_make.items():
        if not (delta / kind).is_dir():
            raise UserError(f"{delta}: does not say how {names[0]} is made: make it anew")
    for kind in TABLES:
        if kind in to_make:
            starts = _starts(new, kind, row_groups)
            _write_tables(base, delta, new, kind, {name: starts[name] for name in to_make[kind]})
    if ITEM_PARTS in to_make:
        starts = _starts(new, ITEM_PARTS, row_groups)
        write = _write_vectors if INDEX in new.sha256 else _write_stored_vectors
        write(base, delta, new, {name: starts.get(name, []) for name in to_make[ITEM_PARTS]})
    for kind, name in TOWERS.items():
        if kind in to_make:
            write_new_tower(delta / kind, base.folder / name, new.folder / name)


def whole_vectors(files: Files) -> NDArray[np.float32]:
    """(N, D) float32 vectors, mapped; of an export that stores few bits of them none, (0, 0)."""
    if INDEX not in files.sha256:
        return np.empty((0, 0), np.float32)
    return read_index(files.folder / INDEX)[1]


def stored_vectors(files: Files) -> pa.Table:
    """The rows of the parts of item vectors of few bits, without their places; of others none."""
    if INDEX in files.sha256:
        return pa.table({})
    return files.table(ITEM_PARTS).drop_columns([ITEM_INDEX])


def wrong_files(files: Files) -> list[str]:
    """The names of files that do not have their digest."""
    return [
        name
        for name, digest in sorted(files.sha256.items())
        if sha256(files.folder / name) != digest
    ]


def forgotten_ids(base: Files, new: Files, kind: str) -> pa.Table:
    """The ids of a table that the base has and the new export lacks, in the base's order."""
    before, now = (files.table(kind, [IDS[kind]]) for files in (base, new))
    if before.schema.types != now.schema.types:
        return before
    return before.filter(pc.invert(pc.is_in(before[IDS[kind]], value_set=now[IDS[kind]])))


def check_forgotten(base: Files, delta: Path, new: Files) -> None:
    """Refuse a delta whose forgotten ids are others than those that the result lacks.

    Raises:
        UserError: names the file.
    """
    for kind in IDS:
        path = delta / FORGOTTEN / f"{kind}.parquet"
        wanted = forgotten_ids(base, new, kind)
        if not path.exists() or not pq.ParquetFile(path).read().equals(wanted):
            raise UserError(
                f"{path}: holds other ids than the result lacks of the base's: make the delta anew"
            )


def _starts(new: Files, kind: str, row_groups: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Where the row groups of each Parquet file of a kind begin, and where the last one ends."""
    starts, start = {}, 0
    for name in new.of_kind(kind):
        if name != INDEX:
            ends = np.cumsum([start, *row_groups.get(name, ())]).tolist()
            starts[name], start = ends, ends[-1]
    return starts


def _write_tables(
    base: Files, delta: Path, new: Files, kind: str, starts: Mapping[str, Sequence[int]]
) -> None:
    """Write tables of rows with ids; ``starts`` are their row groups' in all rows of the kind."""
    rows = _new_rows(base.table(kind), delta / kind, starts)
    options = {} if INDEX in new.sha256 else parquet_options(rows.schema)
    for name, bounds in starts.items():
        with pq.ParquetWriter(new.folder / name, rows.schema, **options) as writer:
            for start, stop in pairwise(bounds):
                writer.write_table(rows.rows(start, stop))


def _new_rows(before: pa.Table, folder: Path, starts: Mapping[str, Sequence[int]]) -> NewRows:
    """The rows that a difference makes of the base's; there are as many as ``starts`` say."""
    difference = read_difference(folder, len(before))
    if max(bounds[-1] for bounds in starts.values()) > len(difference.base_rows):
        raise UserError(f"{folder}: has fewer rows than {DELTA} says: make the delta anew")
    return NewRows(before, difference)


def _write_vectors(
    base: Files, delta: Path, new: Files, starts: Mapping[str, Sequence[int]]
) -> None:
    """Write the index, and of it the parts of item vectors; ``starts`` as of ``_write_tables``."""
    folder = delta / ITEM_PARTS
    if INDEX in starts:
        blocks = new_blocks(folder, whole_vectors(base), VECTOR)
        write_index(blocks, rows_of(folder), width_of(folder, VECTOR), new.folder / INDEX)
    _, vectors_ND = read_index(new.folder / INDEX)
    ids = new.table(ITEM_ROWS, ["item_id"])
    model_id = read_manifest(delta, RESULT).model_id
    for name, bounds in starts.items():
        if name != INDEX:
            rows = slice(bounds[0], bounds[-1])
            own = ids.slice(bounds[0], bounds[-1] - bounds[0])
            numbers = np.ascontiguousarray(vectors_ND[rows])
            table = vectors_table(own, bounds[0], numbers, model_id)
            write_vectors(table, new.folder / name)


def _write_stored_vectors(
    base: Files, delta: Path, new: Files, starts: Mapping[str, Sequence[int]]
) -> None:
    """Write parts of item vectors of few bits; ``starts`` as of ``_write_tables``."""
    rows = _new_rows(stored_vectors(base), delta / ITEM_PARTS, starts)
    for name, bounds in starts.items():
        table = rows.rows(bounds[0], bounds[-1])
        place = pa.array(np.arange(bounds[0], bounds[-1]))
        write_vectors(table.add_column(1, ITEM_INDEX, place), new.folder / name)
