"""Write files and folders whole or not at all: aside first, then fsync, then rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dat_rec.errors import UserError

PARTIAL_SUFFIX = ".partial"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``, and ``folder`` itself, to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(parent) / name)
        _fsync(Path(parent))


def publish(partial: Path, folder: Path) -> None:
    """Make the finished folder ``partial`` appear as ``folder``, replacing an old one."""
    fsync_tree(partial)
    old = folder.with_name(folder.name + ".old" + PARTIAL_SUFFIX)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    partial.rename(folder)
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``folder`` only if the block succeeds.

    Args:
        folder: where the finished folder shall stand.
        overwrite: replace a folder that is already there, at the last moment.

    Raises:
        UserError: ``folder`` is there, is not empty, and ``overwrite`` is false.
    """
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is already there: name another folder, or pass --overwrite to replace it"
        )
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        publish(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``path`` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        yield partial
        _fsync(partial)
        partial.replace(path)
        _fsync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path, what: str) -> Any:
    """Read JSON from ``path``.

    Raises:
        UserError: the file is missing or is not JSON; ``what`` names it for the user.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read {what}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: {what} is not valid JSON ({error}): make it anew") from error
