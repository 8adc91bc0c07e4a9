"""A source in, a whole dataset folder out, or none: ``prepare`` (stages.py does the work)."""

import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

from dat_rec.data.database import can_last
from dat_rec.data.digests import DIGESTS, digests_of, files_below
from dat_rec.data.duckdb_errors import errors_in_one_line
from dat_rec.data.prepare.admit import check_admission
from dat_rec.data.prepare.base import Base, open_base, unchanged
from dat_rec.data.prepare.forget import check_forgetting
from dat_rec.data.prepare.journal import Journal, made_of
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.parts import known_digests
from dat_rec.data.prepare.remote import address_in, has_addresses, prepare_near
from dat_rec.data.prepare.stages import Stages
from dat_rec.data.prepare.validation import check_validation
from dat_rec.data.progress import Progress
from dat_rec.data.schema import SCHEMA, Schema
from dat_rec.errors import UserError
from dat_rec.files import whole_folder, write_json
from dat_rec.storage.address import Location


def prepare(options: Options) -> Schema:
    """Turn a log of interactions into the dataset ``options.out``, whole or not at all.

    Args:
        options: a source of ``dat_rec.data.sources`` with its fields, which are the command line's
            options: ``ParquetLog``, ``Amazon``, ``CompleteJourney``, ``KuaiRand``, ``MovieLens``
            or ``Synthetic``.

    Returns:
        What the dataset holds, as schema.json has it.

    Raises:
        UserError: bad input, too many bad rows, no room, no right to write; one line says where.

    Example:
        >>> from pathlib import Path
        >>> import dat_rec
        >>> from dat_rec.data.sources import Synthetic
        >>> source = Synthetic(out=Path("data"), users=200, items=100, interactions=4000)
        >>> schema = dat_rec.prepare(source)
        >>> schema.users, schema.items
        (200, 100)
    """
    _check_numbers(options)
    if has_addresses(options):
        schema = prepare_near(options, _prepare, SCHEMA)
    else:
        schema = _prepare(options)
    _report(address_in(options.out) or options.out, schema)
    return schema


def _prepare(options: Options) -> Schema:
    """Make the dataset, of local paths alone."""
    _check_paths(options)
    base = open_base(options)
    of = made_of(options)
    with (
        errors_in_one_line(options.inputs(), options.out, options.memory_limit),
        whole_folder(
            options.out,
            marker="schema.json",
            overwrite=options.overwrite,
            goes_on=lambda folder: Journal.goes_on(folder / "work", of),
        ) as folder,
        unchanged(base),
    ):
        for name in ("work", "examples", "vocabularies"):
            (folder / name).mkdir(exist_ok=True)
        journal = Journal(folder / "work", of, lasting=can_last(folder))
        schema = Stages(options, folder, journal, base).run()
        journal.drop_files()
        schema.save(folder)
        _write_digests(folder, options.threads, base)
        shutil.rmtree(folder / "work")
    return schema


def _write_digests(folder: Path, threads: int | None, base: Base | None) -> None:
    """Write sha256.json, of all other files; what was taken over has its digest already."""
    known = {} if base is None else known_digests(base, folder)
    names = [name for name in files_below(folder) if not name.startswith("work/")]
    names = [name for name in names if name not in known]
    size = sum((folder / name).stat().st_size for name in names)
    with closing(Progress("prepare: sha256", size, unit="B")) as bar:
        found = digests_of(folder, names, bar, threads or os.cpu_count() or 1)
    write_json(folder / DIGESTS, dict(sorted((found | known).items())))


def _check_numbers(options: Options) -> None:
    if options.history_length < 1:
        raise UserError(f"--history-length {options.history_length}: must be at least 1")
    if options.audience_length < 0:
        raise UserError(f"--audience-length {options.audience_length}: must be at least 0")
    if not 0 <= options.max_rejected <= 1:
        raise UserError(f"--max-rejected {options.max_rejected}: must lie between 0 and 1")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: must be at least 1")
    check_validation(options)
    check_forgetting(options)
    check_admission(options)


def _check_paths(options: Options) -> None:
    out = options.out.resolve()
    if "\\" in str(out):
        raise UserError(
            f"--out {options.out}: DuckDB takes a backslash for a slash: name a folder without one"
        )
    for path in (*options.inputs(), *([options.after] if options.after else [])):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder: correct the path")
        if out == path.resolve() or out in path.resolve().parents:
            raise UserError(f"--out {options.out} holds the input {path}: name another folder")


def _report(out: Location, schema: Schema) -> None:
    """Say on stderr what stands in the folder and what was left out."""
    validating = f"{schema.validation} of validation, " if schema.validation else ""
    lines = [
        f"{out}: {schema.examples} examples, {schema.tests} test interactions, {validating}"
        f"{schema.users} users, {schema.items} items ({schema.trained_items} trained)",
        schema.split,
        *schema.notes,
    ]
    lines += [f"rejected: {count} rows: {kind}" for kind, count in schema.rejected.items()]
    print("\n".join(lines), file=sys.stderr)
