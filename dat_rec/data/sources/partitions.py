"""``--from`` and ``--to`` in, the files of the partitions between them out; both count too.

A bound is a value (``2026-11-01``) where the folders name one column, or is written as folders are
(``day=2026-11-01``, ``year=2026/month=11``). Values are compared as integers or dates if all are
such, else as text, by code points. The partition without a value is in no span.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import unquote

from dat_rec.data.sources.aloud import say
from dat_rec.data.sources.folders import PAIR, Folders
from dat_rec.errors import NoRowsError, UserError

WHOLE = re.compile(r"-?\d{1,18}")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Span:
    """The partitions that the user chose."""

    first: str | None
    """``--from``."""
    last: str | None
    """``--to``."""
    where: str
    """The log, for messages."""

    def choose(self, files: Sequence[Path], folders: Folders) -> list[Path]:
        """The files whose partition lies within, told by their folders' names alone.

        Raises:
            NoRowsError: none is left.
            UserError: there are no partitions, or a bound names none of their columns or is no
                value as theirs are.
        """
        tests = [
            self._within(option, text, folders)
            for option, text in (("--from", self.first), ("--to", self.last))
            if text is not None
        ]
        chosen = [file for file in files if all(test(file) for test in tests)]
        if not chosen:
            said = " ".join(
                f"{option} {text}"
                for option, text in (("--from", self.first), ("--to", self.last))
                if text is not None
            )
            raise NoRowsError(f"{said}: {self.where}: {_extent(folders)}: correct the bounds")
        return chosen

    def _within(self, option: str, text: str, folders: Folders) -> Callable[[Path], bool]:
        bound = bound_of(option, text, folders.names(), self.where)
        columns = []
        for name, value in bound:
            values = folders.values(name)
            kind = kind_of(values, name, f"{option} {text}")
            columns.append((values, kind, kind.read(f"{option} {text}", name, value)))

        empty = {file for values, _, _ in columns for file in values if values[file] is None}
        if empty:
            say(f"{option} {text}: not read: {len(empty)} files of the partition without a value")

        def test(file: Path) -> bool:
            for values, kind, end in columns:
                value = values[file]
                if value is None:
                    return False
                key = kind.key(value)
                if key != end:
                    return _beyond(option, key, end)
            return True

        return test


def bound_of(option: str, text: str, names: Sequence[str], where: str) -> list[tuple[str, str]]:
    """The columns and values that a bound names.

    Args:
        option: ``--from`` or ``--to``.
        text: what the user wrote.
        names: the partitions' columns, the outermost first.
        where: the log, for messages.

    Raises:
        UserError: there are no such columns, or several and the bound names none.
    """
    if not names:
        raise UserError(
            f"{option} {text}: {where}: no folder is called COLUMN=VALUE: leave it out, or "
            "partition the log"
        )
    pairs = [PAIR.fullmatch(part) for part in text.strip("/").split("/")]
    if not all(pair and pair[1] in names for pair in pairs):
        if len(names) > 1 or any(pair is not None for pair in pairs):
            raise UserError(
                f"{option} {text}: {where}: its partitions are of {', '.join(names)}: write e.g. "
                f"{option} {names[0]}=VALUE"
            )
        return [(names[0], text)]
    return [(pair[1], unquote(pair[2])) for pair in pairs if pair]


@dataclass(frozen=True)
class Kind:
    """How a column's values are compared."""

    words: str
    pattern: re.Pattern[str]
    key: Callable[[str], int | date | str]
    example: str

    def read(self, said: str, name: str, value: str) -> int | date | str:
        """A bound's value.

        Raises:
            UserError: it is none of the kind.
        """
        if self.pattern.fullmatch(value):
            try:
                return self.key(value)
            except ValueError:
                pass
        raise UserError(
            f"{said}: {value!r} is no {self.words}, as the values of {name!r} are, e.g. "
            f"{self.example}: write one"
        )


def kind_of(values: dict[Path, str | None], name: str, said: str) -> Kind:
    """How the values of a column are compared.

    Raises:
        UserError: some are dates or integers and others are not, or two are one integer.
    """
    texts = {value: file for file, value in values.items() if value is not None}
    example = next(iter(texts), "")
    counts = {}
    for words, pattern, key in (("integer", WHOLE, int), ("date", DAY, date.fromisoformat)):
        counts[words] = [text for text in texts if _fits(text, pattern, key)]
        if texts and len(counts[words]) == len(texts):
            if words == "integer":
                _refuse_twins(texts, name, said)
            return Kind(words, pattern, key, example)
    words, fitting = max(counts.items(), key=lambda count: len(count[1]))
    if fitting:
        other = next(text for text in texts if text not in fitting)
        raise UserError(
            f"{said}: {texts[other]}: {name}={other} is no {words}, as {name}={fitting[0]} is, "
            "and they cannot be ordered: rename the folder"
        )
    return Kind("text", re.compile(r"(?s).*"), str, example)


def _fits(text: str, pattern: re.Pattern[str], key: Callable[[str], object]) -> bool:
    if not pattern.fullmatch(text):
        return False
    try:
        key(text)
    except ValueError:
        return False
    return True


def _refuse_twins(texts: dict[str, Path], name: str, said: str) -> None:
    first: dict[int, str] = {}
    for text in texts:
        other = first.setdefault(int(text), text)
        if other != text:
            raise UserError(
                f"{said}: {texts[text]}: the folders {name}={other} and {name}={text} are one "
                "value: rename one"
            )


def _beyond(option: str, key: int | date | str, end: int | date | str) -> bool:
    """Whether a value that is not the bound lies on its right side."""
    if isinstance(key, str) and isinstance(end, str) and key.startswith(end):
        # 2026-11-01-13 lies in 2026-11-01.
        return True
    return key > end if option == "--from" else key < end  # type: ignore[operator]


def _extent(folders: Folders) -> str:
    """What partitions there are, in words."""
    name = folders.names()[0]
    values = {value for value in folders.values(name).values() if value is not None}
    if not values:
        return "no partition lies within"
    whole = all(WHOLE.fullmatch(value) for value in values)
    shown = sorted(values, key=int if whole else str)
    return f"no partition lies within: they go from {name}={shown[0]} to {name}={shown[-1]}"
