"""Write files and folders whole or not at all; read JSON, and check it against a dataclass.

What is written stands aside first, then comes fsync, then a rename.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dat_rec.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

PARTIAL_SUFFIX = ".partial"
OLD_SUFFIX = ".old" + PARTIAL_SUFFIX
UNFINISHED = ".unfinished"
"""Stands in a folder while it is being filled, locked by the process that fills it."""
LONGEST_VALUE = 100
"""Characters of a wrong value that a message quotes."""
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(text: str) -> Path:
    """The local path that a user has written; ``file://`` is read as the path.

    Raises:
        UserError: it is the address of an object store, as in ``s3://bucket/log``, which would
            pass for a folder called ``s3:``; or of another host.
    """
    found = ADDRESS.match(text)
    if found is None:
        return Path(text)
    rest = text[found.end() :]
    if found[1].lower() == "file":
        if rest.startswith("/") and not rest.startswith("//"):
            raise UserError(f"{text}: names another host: write file:///PATH")
        return Path("/" + rest.lstrip("/"))
    raise UserError(
        f"{text}: {found[1]} is no local disk, and this must lie on one: name a path of a local "
        "or mounted disk"
    )


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
    """Make the finished folder ``partial`` appear as ``folder``, replacing an old one.

    An old one is back in its place when anything fails; ``recover`` brings it back when the
    process was killed between the two renames.
    """
    fsync_tree(partial)
    old = folder.with_name(folder.name + OLD_SUFFIX)
    replaced = folder.exists()
    if replaced:
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        partial.rename(folder)
    except BaseException:
        if replaced:
            old.rename(folder)
        raise
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring ``folder`` back if a process was killed while it replaced it."""
    old = folder.with_name(folder.name + OLD_SUFFIX)
    if old.is_dir() and not folder.exists():
        old.rename(folder)


@contextmanager
def whole_folder(
    folder: Path,
    *,
    marker: str,
    overwrite: bool = False,
    goes_on: Callable[[Path], bool] | None = None,
) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``folder`` only if the block succeeds.

    Args:
        folder: where the finished folder shall stand; a link is followed.
        marker: a file that every finished folder of this kind holds.
        overwrite: replace a folder with ``marker`` that is already there, at the last moment.
        goes_on: whether to fill on what a killed process left in the folder that it is given;
            by default nothing is kept.

    Raises:
        UserError: ``folder`` is there and is not empty, and ``overwrite`` is false or it is of
            another kind; or another process is writing it.
    """
    folder = folder.resolve()
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    recover(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / marker).exists():
            raise UserError(f"{folder} is there and holds no {marker}: name another folder")
        if not overwrite:
            raise UserError(
                f"{folder} is already there: name another folder, or pass --overwrite to replace it"
            )
    beside = folder.with_name(f".{folder.name}{UNFINISHED}")
    _make_or_find(partial, beside)
    with _locked(partial / UNFINISHED, partial):
        try:
            if goes_on is None or not goes_on(partial):
                _clear(partial)
            yield partial
            # A finished folder holds no mark: it waits beside, so that a kill before the rename
            # leaves a folder that is known.
            (partial / UNFINISHED).rename(beside)
            publish(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            beside.unlink(missing_ok=True)


def _make_or_find(partial: Path, beside: Path) -> None:
    """Make the unfinished folder, unless a killed process left one.

    Args:
        partial: the folder.
        beside: where the mark is, and not in the folder, while that is being renamed.

    Raises:
        UserError: the folder has no mark; or another process is renaming it.
    """
    try:
        partial.mkdir(parents=True)
    except FileExistsError as error:
        mark = partial / UNFINISHED
        if partial.is_dir() and not mark.exists() and beside.exists():
            with _locked(beside, partial), suppress(FileNotFoundError):
                beside.rename(mark)
        # A kill before the mark leaves an empty folder, which nobody misses.
        if not mark.exists() and not (partial.is_dir() and not any(partial.iterdir())):
            raise UserError(f"{partial} is in the way: move it, or name another folder") from error


def _clear(partial: Path) -> None:
    """Remove what a killed process left."""
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != UNFINISHED:
            path.unlink()


@contextmanager
def _locked(mark: Path, partial: Path) -> Iterator[None]:
    """Hold the lock on an unfinished folder, which the system lets go when the process ends."""
    with mark.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{partial}: another process is writing it: wait for it, or name another folder"
            ) from error
        yield


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``path`` only if the block succeeds."""
    path = path.resolve()
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


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all."""
    with whole_file(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", "utf-8")


STRICT: Any = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
"""Rules for ``checked``, as ``__pydantic_config__`` of a dataclass: nothing is converted (1.0 is no
int, 1 no bool, a text no list), and unknown fields and NaN are refused."""
MUST_BE = {
    "greater_than_equal": "it must be {ge} or more",
    "greater_than": "it must be above {gt}",
    "less_than_equal": "it must be at most {le}",
    "less_than": "it must be below {lt}",
    "too_short": "it must have {min_length} or more",
    "string_pattern_mismatch": "it must match {pattern}",
}
"""The bounds in fewer words than pydantic's."""


def checked(
    kind: Callable[..., T],
    value: object,
    where: str = "",
    cure: str = "",
    name: Callable[[str], str] = str,
) -> T:
    """Return the dataclass ``kind`` with the content of a JSON value, every field checked.

    Args:
        kind: a dataclass with ``__pydantic_config__ = STRICT``, as those in it; its annotations are
            the rules.
        value: what ``json.loads`` returned.
        where: the file, for the message.
        cure: what the user can do; without it, the rule itself.
        name: how the message calls a field such as ``tables[0].rows``; by default so.

    Raises:
        UserError: in one line, the first field that is wrong, its value, the rule and the cure.
    """
    # pydantic takes as long to import as all else that `dat-rec status` needs.
    from pydantic import ValidationError

    try:
        found: T = _adapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = _problem(dict(first), name(_field_name(first["loc"])), cure)
        raise UserError(f"{where}: {problem}" if where else problem) from error
    return found


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _field_name(location: tuple[str | int, ...]) -> str:
    """The field's name, as in ``tables[0].rows``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _problem(error: dict[str, Any], name: str, cure: str) -> str:
    """One of pydantic's errors in one line."""
    if error["type"] == "missing":
        return f"{name} is missing: {cure or 'add it'}"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown field {name!r}: {cure or 'remove it, or correct its name'}"
    bounds = error.get("ctx", {}).items()
    whole = {
        key: int(of) if isinstance(of, float) and of.is_integer() else of for key, of in bounds
    }
    rule = MUST_BE.get(error["type"], "").format(**whole)
    rule = rule or error["msg"].replace("Input should be", "it must be")
    if error["type"] == "json_invalid":
        return f"{rule}: {cure or 'correct it'}"
    value = repr(error["input"])
    short = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
    return f"{name or 'the content'} is {short}: {rule}" + (f": {cure}" if cure else "")


def read_json(path: Path, what: str) -> Any:
    """Read JSON from ``path``.

    Raises:
        UserError: the file is missing or is not JSON; ``what`` names it for the user.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read {what}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {what} is not valid JSON ({error}): make it anew") from error
