"""Paths as a user names them in, what they stand for out: a name, or a pattern.

A path that exists is a name, whatever signs it holds. One that does not exist and holds a ``*`` is
a pattern: ``*`` is any text within one name, ``**`` any number of folders; ``?``, ``[`` and ``{``
are themselves. A star stands for no hidden name.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import iglob
from pathlib import Path

from dat_rec.data.scan import plain_path
from dat_rec.errors import UserError

STAR = "*"


@dataclass(frozen=True)
class Named:
    """One path of the command line."""

    path: Path
    """As the user wrote it."""
    folder: Path
    """The folder that it names, or that holds the file, or in which its pattern begins."""
    found: tuple[Path, ...]
    """The files and folders that it stands for: itself, or the pattern's matches by name."""
    pattern: bool = False


def named_paths(paths: Path | Sequence[Path]) -> tuple[Named, ...]:
    """What each path stands for.

    Raises:
        UserError: nothing has a name that fits the pattern.
    """
    listed = (paths,) if isinstance(paths, Path) else paths
    return tuple(_named(path) for path in listed)


def in_words(paths: Path | Sequence[Path]) -> str:
    """The paths, at least one, for a message that is about none of them alone."""
    listed = (paths,) if isinstance(paths, Path) else tuple(paths)
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return f"{listed[0]}{more}"


def hidden(name: str) -> bool:
    """Whether Spark and Hive pass the name over; a partition may begin with _, as in ``_c0=1``."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def start_of(path: Path) -> Path:
    """The path itself if it is a name, else the folder in which its pattern begins."""
    if not _is_pattern(path):
        return path
    parts = path.parts
    return Path(*parts[: next(n for n, part in enumerate(parts) if STAR in part)])


def _named(given: Path) -> Named:
    path = plain_path(given)
    if not _is_pattern(path):
        return Named(given, path if path.is_dir() else path.parent, (path,))
    folder = start_of(path)
    rest = path.parts[len(folder.parts) :]
    found = tuple(_outermost(_matches(folder, rest)))
    if not found:
        raise UserError(
            f"{given}: no such file, and no name fits it as a pattern: correct the path"
        )
    return Named(given, folder, found, pattern=True)


def _is_pattern(path: Path) -> bool:
    return STAR in str(path) and not os.path.lexists(path)


def _matches(folder: Path, rest: Sequence[str]) -> list[Path]:
    pattern = "/".join(re.sub(r"[?[]", r"[\g<0>]", part) for part in rest)
    shown = any(hidden(part) for part in rest)
    # What ** is to Path.glob depends on Python's version.
    names = iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    found = map(Path, names)
    return sorted(folder / path for path in found if shown or not any(map(hidden, path.parts)))


def _outermost(paths: Sequence[Path]) -> Iterator[Path]:
    """The paths that lie in no other one: ``**`` fits a folder and all that is in it."""
    kept: set[Path] = set()
    for path in paths:
        if not kept.intersection(path.parents):
            kept.add(path)
            yield path
