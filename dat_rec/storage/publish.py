"""Publish a folder or a file at a location: it is there whole, or not at all.

On a disk that is a rename (``dat_rec.files``). A store has none: the files of a folder are written
below a new prefix, ``data-<32 hex digits>/``, and then ``manifest.json``, which names them with
their sizes, ETags and SHA-256, under the condition that nobody has written it meanwhile. Readers go
by the manifest (``snapshot.py``), so that they see the old folder or the new one.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from dat_rec import files
from dat_rec.disk import say
from dat_rec.errors import UserError
from dat_rec.storage.address import Address, Location, Pin
from dat_rec.storage.client import client
from dat_rec.storage.lease import WRITER, Lease, lease, put_once
from dat_rec.storage.problems import ChangedError, MissingError
from dat_rec.storage.read import exists
from dat_rec.storage.snapshot import MANIFEST, Manifest, ManifestFile, read_manifest, staged

TOKEN = re.compile(r"data-[0-9a-f]{32}")


@contextmanager
def whole_folder(where: Location, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; it is published at ``where`` only if the block succeeds.

    For a store that is a folder in TMPDIR, which needs room for all of it.

    Args:
        where: where the finished folder shall stand.
        marker: a file that every finished folder of this kind holds.
        overwrite: replace a folder with ``marker`` that is already there, at the last moment.

    Raises:
        UserError: as ``files.whole_folder``; or the store refuses.
    """
    if isinstance(where, Path):
        with files.whole_folder(where, marker=marker, overwrite=overwrite) as folder:
            yield folder
        return
    refuse_taken(where, marker, overwrite=overwrite)
    with staged(where) as folder:
        yield folder
        publish_folder(folder, where, marker=marker, overwrite=overwrite)


def publish_folder(folder: Path, where: Address, *, marker: str, overwrite: bool = False) -> None:
    """Publish a finished folder in a store.

    What dead writers have left at the address is named on stderr, and removed.

    Raises:
        UserError: as ``whole_folder``; or another process is publishing there.
    """
    with lease(where) as held:
        # Once more, now that nobody else writes.
        before = client(where).head(where / MANIFEST) if exists(where / MANIFEST) else None
        refuse_taken(where, marker, overwrite=overwrite)
        _publish(_upload(folder, where, held), where, held, before)


@contextmanager
def whole_file(where: Location) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``where`` only if the block succeeds."""
    if isinstance(where, Path):
        with files.whole_file(where) as partial:
            yield partial
        return
    with staged(where) as folder:
        path = folder / where.name
        yield path
        client(where).put(where, path)


def refuse_taken(where: Address, marker: str, *, overwrite: bool) -> None:
    """Refuse an address that holds something which may not be replaced.

    Raises:
        UserError: it does.
    """
    manifest = read_manifest(where)
    if manifest is None:
        there = [key.removeprefix(f"{where.key}/") for key in client(where).list_below(where)]
        if others := [key for key in sorted(there) if not _is_ours(key)]:
            raise UserError(
                f"{where} holds objects that were not published by dat-rec ({others[0]}): name "
                "another address, or remove them"
            )
    elif marker not in manifest.files:
        raise UserError(f"{where} is there and holds no {marker}: name another address")
    elif not overwrite:
        raise UserError(
            f"{where} is already there: name another address, or pass --overwrite to replace it"
        )


def _is_ours(key: str) -> bool:
    return key == WRITER or TOKEN.fullmatch(key.partition("/")[0]) is not None


def _upload(folder: Path, where: Address, held: Lease) -> Manifest:
    """Write the folder's files below the writer's prefix; return the manifest that names them."""
    written: dict[str, ManifestFile] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        held.check()
        name = path.relative_to(folder).as_posix()
        pin = client(where).put(where / held.token / name, path)
        written[name] = ManifestFile(pin.size, pin.tag, files.sha256(path))
    return Manifest(held.token, written)


def _publish(manifest: Manifest, where: Address, held: Lease, before: Pin | None) -> None:
    """Write the manifest in place of the one of before, and remove all other data.

    A writer that was taken for dead, or takes us for dead, may still be at work. So only what was
    there before our manifest is removed, and only after it: whoever wrote that has seen an older
    manifest, or none, and can no longer publish.
    """
    held.check()
    replaced = read_manifest(where)
    others = _other_data(where, held.token)
    text = json.dumps(asdict(manifest), indent=2) + "\n"
    try:
        put_once(where / MANIFEST, text.encode(), before)
    except (ChangedError, MissingError) as error:
        client(where).delete([where / manifest.prefix / name for name in manifest.files])
        raise UserError(
            f"{where}: another writer has published there meanwhile: nothing was changed"
        ) from error
    for prefix, addresses in others.items():
        client(where).delete(addresses)
        if replaced is None or prefix != replaced.prefix:
            say(f"{where / prefix}: {len(addresses)} objects, left by a writer that died: removed")


def _other_data(where: Address, token: str) -> dict[str, list[Address]]:
    """All data below an address but the writer's own, by prefix."""
    found: dict[str, list[Address]] = {}
    for key in client(where).list_below(where):
        name = key.removeprefix(f"{where.key}/")
        prefix = name.partition("/")[0]
        if TOKEN.fullmatch(prefix) and prefix != token:
            found.setdefault(prefix, []).append(where / name)
    return found
