"""Paths in, the Parquet files that they stand for out: each file, and all below each folder.

What counts follows Spark and Hive: names that begin with ``.`` or ``_`` never do, a file counts by
its ending or, without an ending, by its content, however deep it lies. What a writer has not
finished, by its name, is passed over aloud. The folder of a table format is refused
(table_folders.py).

Folders are listed once. No file is opened before the partitions are chosen.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dat_rec.data.sources.aloud import say
from dat_rec.data.sources.folders import Folders
from dat_rec.data.sources.named_paths import Named, hidden
from dat_rec.data.sources.not_parquet import MAGIC, what_it_is
from dat_rec.data.sources.partitions import Span
from dat_rec.data.sources.pins import ends
from dat_rec.data.sources.table_folders import refuse_table
from dat_rec.errors import UserError
from dat_rec.files import UNFINISHED

ENDINGS = (".parquet", ".parq", ".pq")
ENDING = re.compile(r"\.[A-Za-z]\w*$")
"""The ending of a file's name; ``000000_0`` and ``events-v1.2-000000000000`` have none."""
IN_WRITING = re.compile(
    r"\.(inprogress|pending|_copying_|tmp|temp|part|partial|crdownload|filepart)(\.|$)", re.I
)
"""What Flink, ``hdfs dfs -put``, rsync, browsers and others call a file that they still write."""
TEMPORARY = "_temporary"
"""The folder of a running job of Spark or Hadoop, or of one that died."""
SHOWN = 3
"""Maximum number of names in a message."""


def part_files(named: Sequence[Named], span: Span | None = None) -> tuple[Path, ...]:
    """The Parquet files that the paths stand for, each once, in the order of their names.

    Files of other kinds, links to the same file, and unfinished files are named on stderr.

    Args:
        named: the paths.
        span: the partitions to choose; None: all.

    Raises:
        UserError: there is none, or it is part of a table, or holds a dataset of our own.
    """
    listed: dict[Path, bool] = {}
    for one in named:
        for path in one.found:
            strict = not one.pattern and not path.is_dir()
            for file in [path] if strict else _below(path):
                listed[file] = listed.get(file, False) or strict
    files = _once(listed)
    if span is not None:
        files = span.choose(files, Folders(named, files))
    parts: list[Path] = []
    others: list[Path] = []
    unfinished: list[Path] = []
    for path in files:
        if listed[path] or _is_part(path):
            parts.append(path)
        else:
            (unfinished if IN_WRITING.search(path.name) else others).append(path)
    where = named[0].path if len(named) == 1 else named[0].folder
    if not parts:
        raise _nothing(where, others, unfinished)
    if others:
        say(f"{where}: not read, as they are no Parquet by name: {_names(others)}")
    if unfinished:
        say(f"{where}: not read, as their names say that they are unfinished: {_names(unfinished)}")
    return tuple(parts)


def _below(path: Path) -> Iterator[Path]:
    return _walk(path) if path.is_dir() else iter([path])


def _once(listed: dict[Path, bool]) -> list[Path]:
    """The files without those that links lead to a second time."""
    first: dict[str, Path] = {}
    for path in listed:
        before = first.setdefault(os.path.realpath(path), path)
        if before != path:
            say(f"{path}: leads to the same file as {before}: read once")
    return list(first.values())


def _is_part(path: Path) -> bool:
    if path.name.lower().endswith(ENDINGS):
        return True
    if ENDING.search(path.name) or IN_WRITING.search(path.name):
        return False
    return ends(path) == (MAGIC, MAGIC)


def refuse_tables_around(path: Path) -> None:
    """Refuse a path that lies in the folder of a table.

    Raises:
        UserError: it does.
    """
    for folder in dict.fromkeys((path, *path.absolute().parents, *path.resolve().parents)):
        # What lies beside the log in a folder that cannot be listed is not ours to judge.
        with suppress(OSError):
            refuse_table(path, folder)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below ``folder`` that are not hidden; links are followed, circles are not."""

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}: correct its permissions") from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        seen.add(os.path.realpath(parent))
        try:
            refuse_table(folder, Path(parent))
        except OSError as error:
            stop(error)
        _refuse_ours(folder, Path(parent))
        if TEMPORARY in folders:
            say(
                f"{Path(parent) / TEMPORARY}: a job writes here, or died: what it has not "
                "finished is not read"
            )
        folders[:] = sorted(
            name
            for name in folders
            if not hidden(name) and os.path.realpath(Path(parent) / name) not in seen
        )
        yield from (Path(parent) / name for name in sorted(names) if not _is_hidden_file(name))


def _is_hidden_file(name: str) -> bool:
    return name.startswith((".", "_"))


def _refuse_ours(folder: Path, inner: Path) -> None:
    if (inner / UNFINISHED).exists():
        raise UserError(f"{folder}: --out lies in it: name a folder elsewhere for --out")
    if (inner / "schema.json").exists() and (inner / "examples").is_dir():
        raise UserError(
            f"{folder}: holds a dataset that `dat-rec prepare` made ({inner}): name the folder of "
            "the log alone"
        )


def _nothing(folder: Path, others: list[Path], unfinished: list[Path]) -> UserError:
    """The error for paths without Parquet files: it says what is there in their place."""
    if unfinished and not others:
        return UserError(
            f"{folder}: holds unfinished files alone ({_names(unfinished)}): begin again when their"
            " writer is done"
        )
    if not others:
        there = folder.iterdir() if folder.is_dir() else ()
        found = sorted(entry.name for entry in there if _is_hidden_file(entry.name))
        but = f" but hidden ones ({_names(found)})" if found else ""
        return UserError(f"{folder}: holds no files{but}: name the folder of the Parquet files")
    first = others[0]
    if ends(first) == (MAGIC, MAGIC):
        return UserError(
            f"{folder}: holds no file that ends in {', '.join(ENDINGS)}, but {_names(others)}: "
            f"{first} is Parquet: rename it"
        )
    what = "is empty: write it anew" if not first.stat().st_size else f"is {what_it_is(first)}"
    return UserError(f"{folder}: holds no Parquet file, but {_names(others)}: {first} {what}")


def _names(found: list[Path] | list[str]) -> str:
    names = [one if isinstance(one, str) else one.name for one in found]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
