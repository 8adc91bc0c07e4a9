"""An export and deltas in, the full export out that the last one leads to: whole, or not at all."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from dat_rec.errors import UserError
from dat_rec.retrieval.delta.delta_folder import (
    RESULT,
    DeltaManifest,
    Forgotten,
    Standing,
    read_delta,
    read_standing,
    write_sequence,
)
from dat_rec.retrieval.delta.rebuild import Files, check_forgotten, rebuild, wrong_files
from dat_rec.retrieval.exported import DELTA, MANIFEST, Manifest
from dat_rec.storage.address import Location, holds
from dat_rec.storage.publish import whole_folder
from dat_rec.storage.snapshot import local_copy

STEP = "step-{}"
"""Where the files of an export between two deltas are made; they do not stay."""


class Applied(NamedTuple):
    """What ``apply`` made."""

    number: int
    """Of the export: that of its last delta."""
    forgotten: Forgotten
    """What the deltas have removed, all together."""


class _Delta(NamedTuple):
    """A delta that was read."""

    where: Location
    folder: Path
    manifest: DeltaManifest
    result: Manifest


def apply(
    base: Location, deltas: Sequence[Location], out: Location, *, overwrite: bool = False
) -> Applied:
    """Make a full export of an older one and the deltas since; no model is needed.

    Every file of it is byte for byte the one that ``dat_rec.export`` writes of the last delta's
    run, export.json included; beside them stands ``sequence.json``, with the last delta's number.

    Args:
        base: an export, of ``dat_rec.export`` or ``apply``, or its address.
        deltas: the deltas of ``dat_rec.export(…, since=…)`` or their addresses, in their order, the
            first of which was made since ``base``.
        out: the export's folder, or its address.
        overwrite: whether to replace an export that stands in ``out``, which may be the base.

    Raises:
        UserError: ``out`` is taken, the base or a delta is damaged or missing, a delta was not made
            since the export that it is applied to, or by another version of pyarrow.

    Example:
        >>> delta = dat_rec.export(Path("run"), Path("delta"), since=Path("export"))
        >>> dat_rec.apply(Path("export"), [Path("delta")], Path("today")).number
        1
    """
    if not deltas:
        raise UserError("no delta is named: name one or more, the oldest first")
    for one in deltas:
        if holds(one, out) or holds(out, one):
            raise UserError(
                f"--out {out}: is a delta that is applied, or holds one: name another folder"
            )
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(out, marker=MANIFEST, overwrite=overwrite))
        standing = read_standing(stack.enter_context(local_copy(base, MANIFEST)))
        read = []
        for where in deltas:
            copy = stack.enter_context(local_copy(where, DELTA))
            read.append(_Delta(where, copy, *read_delta(copy)))
        _check_order(base, standing, read)
        try:
            _make(standing, read, folder)
            stack.close()
        except pa.ArrowException as error:
            raise UserError(
                f"{', '.join(map(str, deltas))}: cannot be read ({str(error).splitlines()[0]}): "
                "fetch the delta again"
            ) from error
        except OSError as error:
            raise UserError(
                f"{out}: cannot be written ({error}): free the disk, or choose another --out"
            ) from error
    gone = [delta.manifest.forgotten for delta in read]
    forgotten = Forgotten(sum(one.items for one in gone), sum(one.users for one in gone))
    return Applied(read[-1].manifest.sequence, forgotten)


def _check_order(base: Location, standing: Standing, deltas: Sequence[_Delta]) -> None:
    """Refuse a gap, a repeat, another base, and what another pyarrow would write otherwise.

    Raises:
        UserError: names the first delta that does not follow.
    """
    before, number, digest = str(base), standing.number, standing.digest
    for where, _, delta, _ in deltas:
        what = f"{where}: delta {delta.sequence} cannot be applied to {before}, number {number}"
        if delta.sequence <= number:
            raise UserError(
                f"{what}: it was applied already, or made since an export of another number"
            )
        if delta.sequence > number + 1:
            raise UserError(f"{what}: delta {number + 1} must come first")
        if delta.base != digest:
            raise UserError(f"{what}: it was made since another export: name that one as --base")
        if delta.pyarrow != pa.__version__:
            raise UserError(
                f"{where}: was made with pyarrow {delta.pyarrow}, and here is {pa.__version__}, "
                "which may write the same rows in other bytes: install that version, or fetch the "
                "full export"
            )
        before, number, digest = str(where), delta.sequence, delta.result


def _make(standing: Standing, deltas: Sequence[_Delta], folder: Path) -> None:
    """Fill the folder with the last delta's export; its export.json comes last."""
    files = Files(standing.folder, standing.manifest.sha256)
    for number, delta in enumerate(deltas, 1):
        last = number == len(deltas)
        made = Files(folder if last else folder / STEP.format(number), delta.result.sha256)
        rebuild(files, delta.folder, made, delta.manifest.row_groups)
        if wrong := wrong_files(made):
            raise UserError(
                f"{delta.where}: gives another {wrong[0]} than its run's export: fetch the full "
                "export, and report it with both versions of dat_rec, torch and faiss"
            )
        check_forgotten(files, delta.folder, made)
        if number > 1:
            shutil.rmtree(files.folder)
        files = made
    write_sequence(folder, deltas[-1].manifest.sequence, deltas[-1].manifest.result)
    shutil.copyfile(deltas[-1].folder / RESULT, folder / MANIFEST)
