"""What a ``prepare`` that was killed had finished: the next one goes on from there.

The journal stands in the work folder. It names what the dataset is made of (the input files by
path, size and time of change, the options that decide the result, the versions) and holds what each
finished stage has found. A stage's files are whole before the stage is written down.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

import dat_rec
from dat_rec.errors import UserError
from dat_rec.files import UNFINISHED, checked, read_json, sha256, write_json

if TYPE_CHECKING:
    from dat_rec.data.prepare.options import Options

T = TypeVar("T")
FREE = ("out", "overwrite", "memory_limit", "threads", "after")
"""Options that do not change the dataset, and the one whose dataset is told by its digests."""
NAME = "journal.json"


def made_of(options: "Options") -> dict[str, Any]:
    """What decides the dataset: versions, source, options, input files."""
    libraries = {module.__name__: module.__version__ for module in (duckdb, np, pa, dat_rec)}
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in FREE}
    return {
        "versions": libraries,
        "source": type(options).__name__,
        "options": {name: repr(value) for name, value in values.items()},
        "inputs": [file for path in options.inputs() for file in _files(path)],
        "tables": list(options.versions()),
        **({} if options.after is None else {"dataset before": _dataset(options.after)}),
    }


def _dataset(folder: Path) -> list[str]:
    """Where a dataset lies, and the digests of the files that tell what it is."""
    files = [folder / name for name in ("schema.json", "sha256.json", "users.parquet")]
    return [str(folder.absolute()), *(sha256(file) for file in files if file.exists())]


def _files(path: Path) -> Iterator[list[Any]]:
    """Path, size and time of change in ns of a file, or of all below a folder."""
    for file in sorted(_below(path)) if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            stat = file.stat()
            yield [str(file.absolute()), stat.st_size, stat.st_mtime_ns]


def _below(folder: Path) -> Iterator[Path]:
    """All files below, links followed (as rglob does not); none of an unfinished dataset's."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        inner = ((name, Path(parent) / name) for name in folders)
        folders[:] = [
            name
            for name, path in inner
            if os.path.realpath(path) not in seen and not (path / UNFINISHED).exists()
        ]
        yield from (Path(parent) / name for name in names)


class Journal:
    """The finished stages of a dataset that is being made.

    Args:
        work: the folder of the stages' files, which may be there from before.
        of: what the dataset is made of.
        lasting: whether the stages' files outlast the process; without it nothing is written down.
    """

    def __init__(self, work: Path, of: dict[str, Any], *, lasting: bool) -> None:
        self._path = work / NAME
        self._lasting = lasting
        self._content: dict[str, Any] = {"of": of, "stages": {}}
        if self._path.exists():
            self._content = read_json(self._path, "the journal")

    @staticmethod
    def goes_on(work: Path, of: dict[str, Any]) -> bool:
        """Whether the work folder is that of the same dataset; says on stderr what follows."""
        try:
            found = read_json(work / NAME, "the journal")
            begun, stages = found["of"], list(found["stages"])
        except (UserError, KeyError, TypeError):
            return False
        other = [key for key in of if begun.get(key) != of[key]]
        if other:
            print(
                f"{work.parent}: begun with other {' and '.join(other)}: starting anew",
                file=sys.stderr,
            )
        else:
            print(f"{work.parent}: going on after the stage {stages[-1]!r}", file=sys.stderr)
        return not other

    def stage(self, name: str, kind: Callable[..., T], work: Callable[[], T]) -> T:
        """What the stage has found, of the journal or by ``work``, which is then written down.

        Args:
            name: the stage's name.
            kind: a dataclass.
            work: does the stage; it may find files of a try that was killed.
        """
        stages = self._content["stages"]
        if name in stages:
            return checked(kind, stages[name], str(self._path), "remove the folder")
        found = work()
        stages[name] = asdict(found)  # type: ignore[call-overload]
        if self._lasting:
            write_json(self._path, self._content)
        return found

    def drop_files(self) -> None:
        """Remove the files of all stages, when all are finished; the journal itself stays."""
        for path in self._path.parent.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self._path:
                path.unlink()
