"""Folders called ``key=value`` above Parquet files, as columns: Spark's and Hive's partitions."""

import re
from pathlib import Path
from urllib.parse import unquote

from dat_rec.data.scan import plain_path
from dat_rec.data.source import quoted
from dat_rec.errors import UserError

NULL = "__HIVE_DEFAULT_PARTITION__"
PAIR = re.compile(r"([^=]+)=(.*)", re.DOTALL)
INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
"""As an integer is written; 007 is text, and so are the values beside it."""


class Folders:
    """The values that the folders' names say.

    They count below ``path``, and directly above it: ``log/day=1/hour=2`` may be given too.

    Args:
        path: what the user names: a file, or a folder.
        files: the Parquet files that it stands for.
    """

    def __init__(self, path: Path, files: tuple[Path, ...]) -> None:
        root = plain_path(path)
        self._root = root if root.is_dir() else root.parent
        base = self._root
        while PAIR.fullmatch(base.name):
            base = base.parent
        self._base = base
        self._files = files
        self._pairs = {file: _pairs(file, base) for file in files}

    def has(self, name: str) -> bool:
        """Whether a file stands in a folder ``name=…``."""
        return any(name in dict(pairs) for pairs in self._pairs.values())

    def below(self, name: str) -> bool:
        """Whether such a folder lies below the path that the user names."""
        return any(name in dict(_pairs(file, self._root)) for file in self._files)

    def sql(self, name: str) -> str:
        """SQL over ``_source_file``: the value, BIGINT if all are integers, else VARCHAR.

        Raises:
            UserError: a file stands in no such folder, or in two.
        """
        values = set()
        for file, pairs in self._pairs.items():
            found = [value for key, value in pairs if key == name]
            if len(found) != 1:
                count = "no folder" if not found else "more than one folder"
                raise UserError(
                    f"{file}: column {name!r} is missing, and {count} above it is called "
                    f"{name}=…, as with other files: name a column that all have"
                )
            values.add(_decoded(file, name, found[0]))
        whole = all(INTEGER.fullmatch(value) for value in values - {NULL, ""})
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
        start = "" if self._base == Path() else f"{self._base}/".replace("//", "/")
        pattern = quoted(f"(?:^|/){re.escape(name)}=([^/]*)/")
        inner = f"substr(_source_file, {len(start) + 1})"
        value = f"nullif(regexp_extract({inner}, {pattern}, 1), '')"
        return f"url_decode(nullif({value}, '{NULL}'))"


def _decoded(file: Path, name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: the folder {name}={value} is no UTF-8 when decoded: rename it"
        ) from error


def _pairs(file: Path, base: Path) -> list[tuple[str, str]]:
    folders = file.parent.relative_to(base).parts
    return [(pair[1], pair[2]) for folder in folders if (pair := PAIR.fullmatch(folder))]
