"""Options of ``prepare`` with addresses in, the same with local paths out, and a dataset published.

Inputs in a store are copied to a folder in TMPDIR, each object at the version that the listing
showed: DuckDB reads a log more than once, and would take what lies there at each time. A dataset
for a store is made in TMPDIR too, and then published. The folders are named after the addresses, so
that a ``prepare`` that was killed finds there what it had done.
"""

import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dat_rec.data.schema import SCHEMA
from dat_rec.disk import say
from dat_rec.errors import UserError
from dat_rec.files import ADDRESS
from dat_rec.storage.address import Address, Pin, below, location
from dat_rec.storage.client import client
from dat_rec.storage.publish import publish_folder, refuse_taken
from dat_rec.storage.snapshot import fetch, local_copy

AT_ONCE = 8
"""Number of objects that are copied at a time."""
Bounds = tuple[str | None, str | None]
"""--from and --to."""
NO_BOUNDS: Bounds = (None, None)
Given = TypeVar("Given")
Made = TypeVar("Made")


def path_or_address(text: str) -> Path:
    """The path of a user's text; an address is held by a path of its letters.

    Raises:
        UserError: the address is malformed.
    """
    found = location(text, pattern=True)
    return found if isinstance(found, Path) else Path(str(found))


def address_in(path: Path) -> Address | None:
    """The address whose letters a path holds, as in ``Path("s3://bucket/log")``; or None."""
    found = ADDRESS.match(str(path))
    if found is None:
        return None
    # A path takes two slashes for one.
    address = location(f"{found[1]}://{str(path)[found.end() :]}", pattern=True)
    return address if isinstance(address, Address) else None


def has_addresses(options: Any) -> bool:
    """Whether a path among the options holds an address."""
    values = (getattr(options, one.name) for one in dataclasses.fields(options))
    return any(address_in(path) is not None for value in values for path in _paths(value))


def prepare_near(options: Any, prepare: Callable[[Any], Made], marker: str) -> Made:
    """Do ``prepare`` on copies, and publish what it made where the options say.

    Args:
        options: of a source, some of whose paths hold addresses.
        prepare: makes the dataset ``options.out``, which is a local folder then.
        marker: the file that every dataset holds.

    Raises:
        UserError: the store refuses; or as ``prepare``, with addresses in place of the copies.
    """
    out = address_in(options.out)
    if out is not None:
        refuse_taken(out, marker, overwrite=options.overwrite)
    with _copied_inputs(options) as near:
        if out is None:
            return prepare(near)
        staging = _near(out)
        with _told_as({str(staging): str(out)}):
            made = prepare(dataclasses.replace(near, out=staging, overwrite=True))
        publish_folder(staging, out, marker=marker, overwrite=options.overwrite)
        shutil.rmtree(staging)
        say(f"{out}: published")
        return made


@contextmanager
def _copied_inputs(options: Given) -> Iterator[Given]:
    """Yield the options with local copies of all inputs, which are removed at the end."""
    changed: dict[str, Any] = {}
    copies: dict[str, str] = {}
    told: dict[str, str] = {}
    locks = ExitStack()

    def near(value: Any, option: str) -> Any:
        if isinstance(value, tuple):
            return tuple(near(one, option) for one in value)
        address = address_in(value) if isinstance(value, Path) else None
        if address is None:
            return value
        if option == "after":
            copy = locks.enter_context(local_copy(address, SCHEMA))
            told[str(copy)] = str(address)
            return copy
        source, pattern = _without_pattern(address)
        root = _near(source)
        if str(root) not in copies:
            locks.enter_context(_locked(root))
            copies[str(root)] = str(source)
            _remove(root)
        _copy(source, pattern, root, _bounds(options) if option == "interactions" else NO_BOUNDS)
        return root / pattern

    try:
        for one in dataclasses.fields(options):  # type: ignore[arg-type]
            if one.name != "out":
                changed[one.name] = near(getattr(options, one.name), one.name)
        with _told_as(copies | told):
            yield dataclasses.replace(options, **changed)  # type: ignore[type-var]
    finally:
        for name in copies:
            _remove(Path(name))
        locks.close()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the right to make copies at ``root``, which the system lets go with the process."""
    lock = root.with_name(root.name + ".lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{root}: another process copies the same there: wait for it, or set TMPDIR to "
                "another folder"
            ) from error
        yield
        lock.unlink(missing_ok=True)


def _remove(root: Path) -> None:
    if root.is_dir():
        shutil.rmtree(root, ignore_errors=True)
    else:
        root.unlink(missing_ok=True)


def _without_pattern(address: Address) -> tuple[Address, str]:
    """The address up to its first part with a star, and that part with the ones behind it."""
    parts = address.key.split("/")
    first = next((number for number, part in enumerate(parts) if "*" in part), len(parts))
    return address.with_key("/".join(parts[:first])), "/".join(parts[first:])


def _bounds(options: Any) -> Bounds:
    """The first and the last partition that a log's options choose."""
    return getattr(options, "from_", None), getattr(options, "to", None)


def _copy(source: Address, pattern: str, target: Path, bounds: Bounds) -> None:
    """Copy an object, or all below a prefix that a pattern fits, or that lie in what it fits."""
    found = client(source).list_below(source)
    if pattern:
        found = {
            key: pin
            for key, pin in found.items()
            if _fits(below(source.with_key(key), source), pattern)
        }
    elif not found:
        found = {source.key: client(source).head(source)}
    if not found:
        raise UserError(f"{source / pattern}: no object's name fits: correct the address")
    found = _within(found, source, bounds)
    size = sum(pin.size for pin in found.values())
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise UserError(
            f"{source}: {size >> 20:,} MiB to copy, {free >> 20:,} MiB free in {target.parent}: "
            "set TMPDIR to a folder with room"
        )
    say(f"{source}: copying {len(found):,} objects, {size >> 20:,} MiB, to {target.parent}")
    pinned = source.with_pins(found)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        jobs = [threads.submit(_copy_one, pinned.with_key(key), source, target) for key in found]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _copy_one(one: Address, source: Address, target: Path) -> None:
    path = target / below(one, source) if one != source else target
    fetch(one, path)
    # It stands for the version: a prepare that goes on looks whether its inputs are the same.
    stamp = zlib.crc32(str(one.pin).encode())
    os.utime(path, (stamp, stamp))


def _within(found: dict[str, Pin], source: Address, bounds: Bounds) -> dict[str, Pin]:
    """The objects of the partitions within the bounds; all of a table, which knows its own."""
    # The sources derive from prepare's options, which import this.
    from dat_rec.data.sources.folders import Folders
    from dat_rec.data.sources.named_paths import Named, hidden
    from dat_rec.data.sources.partitions import Span

    names = {Path(key.removeprefix(source.key).lstrip("/")): key for key in found}
    table = any("_delta_log" in name.parts or "metadata" in name.parts for name in names)
    if bounds == NO_BOUNDS or table:
        return found
    files = [name for name in names if not any(map(hidden, name.parts)) and found[names[name]].size]
    folders = Folders([Named(Path(), Path(), (Path(),))], files)
    chosen = Span(*bounds, str(source)).choose(files, folders)
    return {names[name]: found[names[name]] for name in chosen}


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits a name, or a folder above it."""
    signs = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    expression = "".join(signs.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(f"{expression}(/.*)?", name) is not None


@contextmanager
def _told_as(names: dict[str, str]) -> Iterator[None]:
    """Let messages of errors name the addresses in place of their copies."""
    try:
        yield
    except UserError as error:
        for near, far in names.items():
            error.args = tuple(str(one).replace(near, far) for one in error.args)
        raise


def _near(address: Address) -> Path:
    """The local folder, or file, that stands for an address; always the same."""
    digest = hashlib.sha256(str(address).encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.=-]", "_", address.name or address.bucket)
    return Path(tempfile.gettempdir()) / f"dat-rec-{digest}-{name}"


def _paths(value: Any) -> list[Path]:
    values = value if isinstance(value, tuple) else (value,)
    return [one for one in values if isinstance(one, Path)]
