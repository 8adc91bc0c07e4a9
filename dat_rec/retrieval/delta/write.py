"""A base export and a full export in, the delta between them out."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.files import sha256, write_json
from dat_rec.retrieval.delta.delta_folder import (
    FORGOTTEN,
    RESULT,
    TOWERS,
    VERSION,
    WHOLE,
    DeltaManifest,
    Forgotten,
    Standing,
)
from dat_rec.retrieval.delta.matrices import write_matrix_difference
from dat_rec.retrieval.delta.rebuild import (
    IDS,
    ITEM_ROWS,
    TABLES,
    Files,
    forgotten_ids,
    kinds_to_make,
    rebuild,
    stored_vectors,
    whole_vectors,
    wrong_files,
)
from dat_rec.retrieval.delta.rows import comparable, equal_rows, same_ids, write_difference
from dat_rec.retrieval.delta.tower import write_tower_difference
from dat_rec.retrieval.exported import DELTA, INDEX, ITEM_PARTS, USER_PARTS
from dat_rec.retrieval.tower_file import in_words
from dat_rec.retrieval.vector_parts import VECTOR

REBUILT = "rebuilt"
"""Where the full export is made of the delta, to see that it is the same; it does not stay."""


def write_delta(base: Standing, full: Files, folder: Path) -> DeltaManifest:
    """Write what turns the base into the full export, and see that it does.

    A file that comes out otherwise (its columns are of kinds that are not compared, say) is given
    whole.

    Args:
        base: the export to begin from.
        full: the new one, without its export.json.
        folder: the delta's; it holds ``result.json``, the new one's export.json.

    Raises:
        UserError: a file of the base cannot be read.
    """
    before = Files(base.folder, base.manifest.sha256)
    (folder / FORGOTTEN).mkdir()
    forgotten = {kind: forgotten_ids(before, full, kind) for kind in IDS}
    for kind, ids in forgotten.items():
        pq.write_table(ids, folder / FORGOTTEN / f"{kind}.parquet", compression="zstd")
    made = kinds_to_make(before, full)
    row_groups = {
        name: _row_groups(full.folder / name)
        for kind in made
        if kind not in (*TOWERS, WHOLE)
        for name in full.of_kind(kind)
        if name != INDEX
    }
    for kind in made:
        _write_kind(before, full, kind, folder)
    rebuilt = Files(folder / REBUILT, full.sha256)
    rebuild(before, folder, rebuilt, row_groups)
    for name in wrong_files(rebuilt):
        _give_whole(full, name, folder)
    shutil.rmtree(rebuilt.folder)
    parts = dict.fromkeys((FORGOTTEN, WHOLE, *made))
    own = [folder / RESULT, *(folder / part for part in parts)]
    there = [path for one in own for path in (one, *sorted(one.rglob("*"))) if path.is_file()]
    delta = DeltaManifest(
        version=VERSION,
        sequence=base.number + 1,
        base=base.digest,
        result=sha256(folder / RESULT),
        forgotten=Forgotten(len(forgotten[ITEM_ROWS]), len(forgotten[USER_PARTS])),
        row_groups=row_groups,
        bytes=sum(path.stat().st_size for path in there),
        pyarrow=pa.__version__,
        sha256={path.relative_to(folder).as_posix(): sha256(path) for path in there},
    )
    write_json(folder / DELTA, asdict(delta))
    return delta


def _write_kind(base: Files, full: Files, kind: str, folder: Path) -> None:
    """Write how the files of one kind differ."""
    if kind in TOWERS and _have_tables_in_words(base, full, TOWERS[kind]):
        write_tower_difference(folder / kind, *(one.folder / TOWERS[kind] for one in (full, base)))
    elif kind in TOWERS or kind == WHOLE:
        _give_changed(base, full, kind, folder)
    elif kind == ITEM_PARTS and INDEX not in full.sha256:
        new, before = stored_vectors(full), stored_vectors(base)
        write_difference(folder / kind, new, equal_rows(new, before, "item_id"))
    elif kind == ITEM_PARTS:
        new_ND, base_ND = (whole_vectors(one) for one in (full, base))
        ours, theirs = (one.table(ITEM_ROWS, ["item_id"]) for one in (full, base))
        ids = ours["item_id"]
        rows = same_ids(ids, theirs["item_id"])
        write_matrix_difference(folder / kind, new_ND, base_ND, rows, VECTOR, ids)
    else:
        assert kind in TABLES
        new, before = full.table(kind), base.table(kind)
        if not comparable(new.schema):
            _give_changed(base, full, kind, folder)
            return
        write_difference(folder / kind, new, equal_rows(new, before, IDS.get(kind, "user_id")))


def _have_tables_in_words(base: Files, full: Files, name: str) -> bool:
    return name in base.sha256 and all(in_words(one.folder / name) for one in (base, full))


def _give_changed(base: Files, full: Files, kind: str, folder: Path) -> None:
    for name in full.of_kind(kind):
        if base.sha256.get(name) != full.sha256[name]:
            _give_whole(full, name, folder)


def _give_whole(full: Files, name: str, folder: Path) -> None:
    (folder / WHOLE / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(full.folder / name, folder / WHOLE / name)


def _row_groups(path: Path) -> tuple[int, ...]:
    metadata = pq.ParquetFile(path).metadata
    return tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
