"""Folders called ``key=value`` above Parquet files, as columns: Spark's and Hive's partitions.

They count below the path that the user names, and directly above it: ``log/day=1/hour=2`` may be
named too.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from dat_rec.data.source import quoted
from dat_rec.data.sources.named_paths import Named
from dat_rec.errors import UserError

NULL = "__HIVE_DEFAULT_PARTITION__"
PAIR = re.compile(r"([^=]+)=(.*)", re.DOTALL)
INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
"""As an integer is written; 007 is text, and so are the values beside it."""


class Folders:
    """The values that the folders' names say.

    Args:
        named: what the user names.
        files: the Parquet files that it stands for.
    """

    def __init__(self, named: Sequence[Named], files: Sequence[Path]) -> None:
        roots = {one.folder for one in named}
        self._roots = _longest_first(roots)
        self._bases = _longest_first({_base(root) for root in roots})
        self._files = files
        self._pairs = {file: _pairs(file, self._bases) for file in files}

    def names(self) -> list[str]:
        """The columns that folders above any file name, the outermost first."""
        return list(dict.fromkeys(key for pairs in self._pairs.values() for key, _ in pairs))

    def has(self, name: str) -> bool:
        """Whether a file stands in a folder ``name=…``."""
        return any(name in dict(pairs) for pairs in self._pairs.values())

    def below(self, name: str) -> bool:
        """Whether such a folder lies below a path that the user names."""
        return any(name in dict(_pairs(file, self._roots)) for file in self._files)

    def values(self, name: str) -> dict[Path, str | None]:
        """Each file's value as text; None where Hive says that there is none.

        Raises:
            UserError: a file stands in no such folder, or in two, or it says no UTF-8.
        """
        found = {}
        for file, pairs in self._pairs.items():
            said = [value for key, value in pairs if key == name]
            if len(said) != 1:
                count = "no folder" if not said else "more than one folder"
                raise UserError(
                    f"{file}: column {name!r} is missing, and {count} above it is called "
                    f"{name}=…, as with other files: name a column that all have"
                )
            found[file] = None if said[0] in (NULL, "") else _decoded(file, name, said[0])
        return found

    def sql(self, name: str) -> str:
        """SQL over ``_source_file``: the value, BIGINT if all are integers, else VARCHAR.

        Raises:
            UserError: as ``values``.
        """
        values = set(self.values(name).values()) - {None}
        whole = all(value is not None and INTEGER.fullmatch(value) for value in values)
        return f"({self.text(name)})::{'BIGINT' if whole else 'VARCHAR'}"

    def text(self, name: str) -> str:
        """SQL over ``_source_file``: the value as text; NULL without one, or where Hive says so.

        Raises:
            UserError: a folder's value, decoded, is no UTF-8.
        """
        for file, pairs in self._pairs.items():
            for key, value in pairs:
                if key == name:
                    _decoded(file, key, value)
        pattern = quoted(f"(?:^|/){re.escape(name)}=([^/]*)/")
        value = f"nullif(regexp_extract({self._inner()}, {pattern}, 1), '')"
        return f"url_decode(nullif({value}, '{NULL}'))"

    def _inner(self) -> str:
        """SQL: the part of ``_source_file`` in which folders count."""
        cases = ""
        for base in self._bases:
            start = "" if base == Path() else f"{base}/".replace("//", "/")
            test = f"starts_with(_source_file, {quoted(start)})"
            cases += f" WHEN {test} THEN substr(_source_file, {len(start) + 1})"
        return f"CASE{cases} END"


def _base(root: Path) -> Path:
    while PAIR.fullmatch(root.name):
        root = root.parent
    return root


def _longest_first(folders: set[Path]) -> list[Path]:
    return sorted(folders, key=lambda folder: (-len(folder.parts), folder))


def _pairs(file: Path, bases: Sequence[Path]) -> list[tuple[str, str]]:
    base = next(base for base in bases if file.is_relative_to(base))
    folders = file.parent.relative_to(base).parts
    return [(pair[1], pair[2]) for folder in folders if (pair := PAIR.fullmatch(folder))]


def _decoded(file: Path, name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: the folder {name}={value} is no UTF-8 when decoded: rename it"
        ) from error
