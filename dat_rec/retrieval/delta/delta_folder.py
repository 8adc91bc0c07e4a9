"""A delta's folder in, its manifest out; and where an export stands in a chain of deltas.

::

    delta.json                    number, digests of base and result, SHA-256 of every other file
    result.json                   export.json of the full export that comes of it
    items/  users/  seen/  own_items/
                                  order.parquet and changed.parquet (``rows.py``)
    item_vectors/                 the same of vectors (``matrices.py``), which make index.faiss too;
                                  of few bits, of the parts' rows but item_index (``rows.py``)
    query_tower/  item_tower/     records.parquet, and the same of each table (``tower.py``)
    forgotten/items.parquet       item_id of items that the base has and the result lacks
    forgotten/users.parquet       user_id, likewise
    whole/…                       files that are given as they are

A file that is the same in the base is copied from there: of such ones the delta holds nothing. An
export is known by the SHA-256 of its export.json, which names that of every other file. One that
``dat-rec export`` wrote in full has number 0; what ``dat-rec apply`` made has its last delta's
number, in ``sequence.json``.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge

from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, read_json, sha256, write_json
from dat_rec.retrieval.exported import (
    ANN,
    ANN_EQUAL,
    DELTA,
    FILES,
    FRESH_FILES,
    INDEX,
    ITEM_PARTS,
    ITEM_TOWER,
    MANIFEST,
    OWN_PARTS,
    RUNTIME_FILES,
    SEEN_PARTS,
    TOWER,
    USER_PARTS,
    Manifest,
    check_files,
    read_manifest,
)
from dat_rec.retrieval.raw_inputs import VOCABULARIES

VERSION = 1
RESULT, SEQUENCE = "result.json", "sequence.json"
TOWER_PARTS, ITEM_TOWER_PARTS = "query_tower", "item_tower"
TOWERS = {TOWER_PARTS: TOWER, ITEM_TOWER_PARTS: ITEM_TOWER}
"""The towers' files, by the folders that hold how they differ."""
FORGOTTEN, WHOLE = "forgotten", "whole"
OF_AN_EXPORT = re.compile(
    rf"{'|'.join(map(re.escape, (*FILES, INDEX, *FRESH_FILES, *RUNTIME_FILES, ANN, ANN_EQUAL)))}"
    rf"|({ITEM_PARTS}|{USER_PARTS}|{SEEN_PARTS}|{OWN_PARTS})/part-\d+\.parquet"
    rf"|{VOCABULARIES}/[^/\n]+\.parquet"
)
"""The names of an export's files."""
AGAIN = "fetch it anew, or make it anew with `dat-rec export --since`"


@dataclass(frozen=True)
class Forgotten:
    """Number of ids that a base has and a result lacks."""

    items: Annotated[int, Ge(0)]
    users: Annotated[int, Ge(0)]

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class DeltaManifest:
    """What ``delta.json`` holds."""

    version: int
    sequence: Annotated[int, Ge(1)]
    """One more than the base's."""
    base: str
    """SHA-256 of the base's export.json."""
    result: str
    """SHA-256 of the result's export.json."""
    forgotten: Forgotten
    row_groups: dict[str, tuple[Annotated[int, Ge(0)], ...]]
    """Rows in each row group of the result's Parquet files that are made of rows."""
    bytes: Annotated[int, Ge(0)]
    """Size of all other files of the delta."""
    pyarrow: str
    """The version that wrote them; another one may write the same rows in other bytes."""
    sha256: dict[str, str]
    """Digest of each other file of the delta, in hexadecimal."""

    __pydantic_config__ = STRICT

    @property
    def whole(self) -> list[str]:
        """Names of the result's files that the delta holds as they are."""
        begin = f"{WHOLE}/"
        return [name.removeprefix(begin) for name in self.sha256 if name.startswith(begin)]


@dataclass(frozen=True)
class Standing:
    """An export, and where it stands in a chain of deltas."""

    folder: Path
    manifest: Manifest
    digest: str
    """SHA-256 of export.json."""
    number: int


@dataclass(frozen=True)
class _Sequence:
    """What ``sequence.json`` holds."""

    sequence: Annotated[int, Ge(1)]
    export: str
    """SHA-256 of the export.json that it stands beside."""

    __pydantic_config__ = STRICT


def read_standing(folder: Path) -> Standing:
    """Read which export a folder holds, every file checked.

    Raises:
        UserError: no export, one of another version, or a file that is missing or damaged.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    digest, path = sha256(folder / MANIFEST), folder / SEQUENCE
    if not path.exists():
        return Standing(folder, manifest, digest, 0)
    cure = "apply the deltas anew, or export in full"
    found = checked(_Sequence, read_json(path, "the export's number"), str(path), cure)
    if found.export != digest:
        raise UserError(f"{path}: belongs to another export than {MANIFEST} beside it: {cure}")
    return Standing(folder, manifest, digest, found.sequence)


def write_sequence(folder: Path, number: int, digest: str) -> None:
    """Say in an export's folder which number it has."""
    write_json(folder / SEQUENCE, asdict(_Sequence(number, digest)))


def read_delta(folder: Path) -> tuple[DeltaManifest, Manifest]:
    """Read a delta's manifest and the result's, every file checked.

    Raises:
        UserError: no delta, one of another version, or a file that is missing, damaged or belongs
            to nothing.
    """
    path = folder / DELTA
    if not path.exists():
        found = (
            f"a full export (no {DELTA})"
            if (folder / MANIFEST).exists()
            else f"no delta (no {DELTA})"
        )
        raise UserError(f"{folder} is {found}: make a delta with `dat-rec export --since`")
    value = read_json(path, "the delta's manifest")
    version = value.get("version") if isinstance(value, dict) else None
    if version not in (None, VERSION):
        raise UserError(f"{path}: version {version}, this program reads {VERSION}: {AGAIN}")
    delta = checked(DeltaManifest, value, str(path), AGAIN)
    _check_delta_files(folder, delta)
    _check_counts(folder, delta)
    result = read_manifest(folder, RESULT)
    if delta.result != delta.sha256[RESULT]:
        raise UserError(f"{path}: {RESULT} is of another export than result says: {AGAIN}")
    check_names(result.sha256, folder / RESULT)
    check_names(delta.whole, path)
    return delta, result


def _check_delta_files(folder: Path, delta: DeltaManifest) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted({RESULT, *delta.sha256}):
        if name not in there:
            raise UserError(f"{folder / name}: is missing: {AGAIN}")
        if sha256(folder / name) != delta.sha256.get(name):
            raise UserError(f"{folder / name}: damaged (SHA-256 differs from {DELTA}): {AGAIN}")
    if others := sorted(there - {DELTA, *delta.sha256}):
        raise UserError(f"{folder / others[0]}: {DELTA} does not name it: {AGAIN}")


def _check_counts(folder: Path, delta: DeltaManifest) -> None:
    """Refuse other numbers of forgotten ids than their lists have."""
    for kind, count in asdict(delta.forgotten).items():
        path = folder / FORGOTTEN / f"{kind}.parquet"
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: is no list of forgotten ids ({error}): {AGAIN}") from error
        if rows != count:
            raise UserError(
                f"{folder / DELTA}: forgotten.{kind} is {count}, and {FORGOTTEN}/{kind}.parquet "
                f"has {rows} rows: {AGAIN}"
            )


def check_names(names: Iterable[str], where: Path) -> None:
    """Refuse names that no file of an export has: they become names on a disk.

    Raises:
        UserError: quotes the first one.
    """
    for name in names:
        if not OF_AN_EXPORT.fullmatch(name):
            raise UserError(f"{where}: {name!r} is no file of an export: {AGAIN}")
