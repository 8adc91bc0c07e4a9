"""Pin a folder of objects: which versions of which objects it is made of, decided once.

A folder that we have published has a manifest, which names them. One that something else has
written, or copied there, is listed.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen

from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked
from dat_rec.storage.address import Address, Location, Pin, below
from dat_rec.storage.client import client
from dat_rec.storage.problems import MissingError
from dat_rec.storage.read import RANGE_BYTES, PinnedFile, read_json

MANIFEST = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class ManifestFile:
    """One object of a published folder."""

    size: Annotated[int, Ge(0)]
    etag: Annotated[str, MinLen(1)]
    sha256: str

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Manifest:
    """What a published folder is made of."""

    prefix: str
    """Where its objects lie, below the folder."""
    files: dict[str, ManifestFile]
    """By name below the prefix."""
    version: int = VERSION

    __pydantic_config__ = STRICT


def read_manifest(folder: Address) -> Manifest | None:
    """The manifest of a published folder; None if there is none.

    Raises:
        UserError: it is malformed, or of another version.
    """
    path = folder / MANIFEST
    try:
        value = read_json(path, "the manifest")
    except MissingError:
        return None
    cure = "publish it anew"
    version = value.get("version") if isinstance(value, dict) else None
    if version not in (None, VERSION):
        raise UserError(f"{path}: version {version!r}, this program reads {VERSION}: {cure}")
    manifest = checked(Manifest, value, str(path), cure)
    for name in (manifest.prefix, *manifest.files):
        # They become names on a disk too.
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise UserError(f"{path}: {name!r} is no name below the folder: {cure}")
    return manifest


@contextmanager
def local_copy(folder: Location, marker: str) -> Iterator[Path]:
    """Yield a folder on a disk with all files of ``folder``, which need room in TMPDIR.

    A local folder is yielded itself. Messages name the address in place of the copy.

    Args:
        folder: as of ``pinned``.
        marker: as of ``pinned``.
    """
    if isinstance(folder, Path):
        yield folder
        return
    source = pinned(folder, marker)
    assert isinstance(source, Address)
    with staged(source) as copy:
        for key in source.pins or ():
            fetch(source.with_key(key), copy / below(source.with_key(key), source))
        yield copy


def fetch(source: Address, target: Path) -> None:
    """Copy an object to a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(PinnedFile(source), file, RANGE_BYTES)


@contextmanager
def staged(where: Address) -> Iterator[Path]:
    """Yield a temporary folder; messages name ``where`` in its place."""
    with tempfile.TemporaryDirectory(prefix="dat-rec-") as name:
        try:
            yield Path(name)
        except UserError as error:
            error.args = tuple(str(one).replace(name, str(where)) for one in error.args)
            raise


def pinned_file(where: Location) -> Location:
    """The file, with its version of now pinned; a local one as it is."""
    if isinstance(where, Path) or where.pins is not None:
        return where
    return where.with_pins({where.key: client(where).head(where)})


def pinned(folder: Location, marker: str) -> Location:
    """The folder, with the versions of its objects pinned; a local folder as it is.

    Args:
        folder: a published folder, or one that was copied to a store.
        marker: a file that every folder of this kind holds.

    Raises:
        TypeError: the folder is a text, as a caller from Python may pass.
    """
    if isinstance(folder, str):
        raise TypeError(f"{folder!r} is a text: pass pathlib.Path(…), or dat_rec.location(…)")
    if not isinstance(folder, Address) or folder.pins is not None:
        return folder
    manifest = read_manifest(folder)
    if manifest is not None:
        inside = folder / manifest.prefix
        pins = {
            (inside / name).key: Pin(file.size, file.etag) for name, file in manifest.files.items()
        }
        return inside.with_pins(pins)
    pins = client(folder).list_below(folder)
    marked = folder / marker
    if marked.key in pins and not client(folder).head(marked).same(pins[marked.key]):
        raise UserError(f"{marked}: is being written: start again when it is done")
    return folder.with_pins(pins)
