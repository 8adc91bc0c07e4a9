"""A path in, the Parquet files that it stands for out: one file, or all below a folder.

What counts follows Spark and Hive: names that begin with ``.`` or ``_`` never do, a file counts by
its ending or, without an ending, by its content, however deep it lies. The folder of a table format
(Delta, Iceberg, Hudi) is refused: beside the table's rows it holds those that were deleted.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from dat_rec.data.scan import plain_path
from dat_rec.errors import UserError
from dat_rec.files import UNFINISHED

ENDINGS = (".parquet", ".parq", ".pq")
ENDING = re.compile(r"\.[A-Za-z]\w*$")
"""The ending of a file's name; ``000000_0`` and ``events-v1.2-000000000000`` have none."""
MAGIC = b"PAR1"
SHOWN = 3
"""Maximum number of names in a message."""
ICEBERG = "*.metadata.json"
ICEBERG_NAME = re.compile(
    r"(v\d+|\d{5,}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(\.gz)?\.metadata\.json"
)
"""What Iceberg's writers call a table's metadata; other tools' may be called so by the ending."""
LFS = b"version https://git-lfs"


def part_files(path: Path, *, aloud: bool = True) -> list[Path]:
    """The Parquet files that ``path`` stands for, in the order of their names.

    Args:
        path: a file, or a folder.
        aloud: whether to name files of other kinds, and links to the same file, on stderr.

    Raises:
        UserError: there is none, or one that is no Parquet; or it is the folder of a table format,
            or of our own.
    """
    path = plain_path(path)
    for folder in dict.fromkeys((path, *path.absolute().parents, *path.resolve().parents)):
        # What lies beside the log in a folder that cannot be listed is not ours to judge.
        with suppress(OSError):
            _refuse_table(path, folder)
    if path.is_dir():
        return _in_folder(path, aloud=aloud)
    if not path.exists():
        raise UserError(f"{path}: no such file: correct the path")
    if not path.is_file():
        raise UserError(f"{path}: is no regular file: write it to one")
    _check(path)
    return [path]


def say(text: str) -> None:
    """Write a line on stderr, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


def _in_folder(folder: Path, *, aloud: bool) -> list[Path]:
    parts: list[Path] = []
    others: list[Path] = []
    first: dict[str, Path] = {}
    for path in _walk(folder):
        real = os.path.realpath(path)
        if real in first:
            if aloud:
                say(f"{path}: leads to the same file as {first[real]}: read once")
            continue
        first[real] = path
        if path.name.lower().endswith(ENDINGS):
            _check(path)
            parts.append(path)
        elif not ENDING.search(path.name) and _magic(path) == (MAGIC, MAGIC):
            parts.append(path)
        else:
            others.append(path)
    if not parts:
        raise _nothing(folder, others)
    if others and aloud:
        say(f"{folder}: not read, as they are no Parquet by name: {_names(others)}")
    return parts


def _walk(folder: Path) -> Iterator[Path]:
    """All files below ``folder`` that are not hidden; links are followed, circles are not."""

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}: correct its permissions") from error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        seen.add(os.path.realpath(parent))
        try:
            _refuse_table(folder, Path(parent))
        except OSError as error:
            stop(error)
        _refuse_ours(folder, Path(parent))
        # A partition's folder may begin with _, as in _c0=1.
        folders[:] = sorted(
            name
            for name in folders
            if not (_hidden(name) and "=" not in name)
            and os.path.realpath(Path(parent) / name) not in seen
        )
        yield from (Path(parent) / name for name in sorted(names) if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _refuse_table(path: Path, folder: Path) -> None:
    """Refuse ``path`` if ``folder``, which is it or holds it or lies in it, is a table's."""
    kind, cure = "", ""
    name, out = str(folder), f"{folder.name or 'table'}.parquet"
    if (folder / "_delta_log").is_dir():
        kind = "Delta"
        cure = _python(
            "import deltalake as d, pyarrow.parquet as pq; "
            f"pq.write_table(d.DeltaTable({name!r}).to_pyarrow_table(), {out!r})"
        )
    elif (folder / ".hoodie").is_dir():
        kind = "Hudi"
        cure = f"in Spark: spark.read.format('hudi').load({name!r}).write.parquet({out!r})"
    elif found := sorted(filter(_is_iceberg, (folder / "metadata").glob(ICEBERG)), key=_version):
        kind = "Iceberg"
        cure = _python(
            "import pyarrow.parquet as pq; from pyiceberg.table import StaticTable as T; "
            f"pq.write_table(T.from_metadata({str(found[-1])!r}).scan().to_arrow(), {out!r})"
        )
    if kind:
        where = "" if folder == path else f" ({folder})"
        raise UserError(
            f"{path}: belongs to a table of {kind}{where}, whose files hold deleted rows too: "
            f"export a snapshot and name that: {cure}"
        )


def _is_iceberg(path: Path) -> bool:
    """Whether the file describes an Iceberg table: by its name, or by its first keys."""
    if ICEBERG_NAME.fullmatch(path.name):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return b'"format-version"' in head and b'"table-uuid"' in head


def _version(path: Path) -> tuple[int, str]:
    """The version of an Iceberg table's metadata file, ``00002-<uuid>`` or ``v2``, to sort by."""
    number = re.match(r"v?(\d+)", path.name)
    return int(number[1]) if number else -1, path.name


def _refuse_ours(folder: Path, inner: Path) -> None:
    if (inner / UNFINISHED).exists():
        raise UserError(f"{folder}: --out lies in it: name a folder elsewhere for --out")
    if (inner / "schema.json").exists() and (inner / "examples").is_dir():
        raise UserError(
            f"{folder}: holds a dataset that `dat-rec prepare` made ({inner}): name the folder of "
            "the log alone"
        )


def _magic(path: Path) -> tuple[bytes, bytes]:
    """The file's first and last four bytes.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
            return begin, file.read(4)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: correct the path, or its rights") from error


def _check(path: Path) -> None:
    """Refuse a file that is no whole Parquet file, with what it is and the cure."""
    begin, end = _magic(path)
    if (begin, end) == (MAGIC, MAGIC):
        return
    if not begin:
        raise UserError(
            f"{path}: is empty (0 bytes), as a write that broke off leaves it: write it anew, or "
            "remove it"
        )
    if begin == MAGIC:
        raise UserError(f"{path}: is cut short, its last bytes are missing: write it anew")
    if begin == b"PARE":
        raise UserError(f"{path}: is encrypted Parquet: write it without encryption")
    raise UserError(f"{path}: is {_what(path)}")


def _what(path: Path) -> str:
    """What a file that is no Parquet holds, and the cure."""
    with path.open("rb") as file:
        head = file.read(4096)
    name, out = str(path), str(path.with_suffix(".parquet"))
    if out == name:
        out = str(path.with_suffix(".converted.parquet"))
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if head.startswith(LFS):
        return "a pointer of Git LFS: fetch the file: git lfs pull"
    if head.startswith(b"ORC"):
        code = f"pyarrow.parquet as pq, pyarrow.orc as o; pq.write_table(o.read_table({name!r})"
        return f"ORC, no Parquet: convert it: {_python(f'import {code}, {out!r})')}"
    if head.startswith((b"ARROW1", b"FEA1")):
        code = f"pyarrow.parquet as pq, pyarrow.feather as f; pq.write_table(f.read_table({name!r})"
        return f"Arrow (Feather), no Parquet: convert it: {_python(f'import {code}, {out!r})')}"
    if start == b"<":
        return "HTML or XML, no Parquet: download the file itself"
    packed_text = head.startswith(b"\x1f\x8b") and re.search(r"\.(csv|tsv|txt|jsonl?)\.gz$", name)
    if not packed_text and (b"\0" in head or head.startswith((b"\x1f\x8b", b"PK", b"BZh", b"Obj"))):
        return f"no Parquet (it begins with {head[:4]!r}): write it as Parquet"
    json = start in (b"{", b"[") or ".json" in name
    kind, reader = ("JSON", "read_json") if json else ("CSV", "read_csv")
    if not json and path.suffix.lower() not in (".csv", ".tsv", ".gz"):
        kind = "text"
    code = f"import duckdb; duckdb.{reader}({name!r}, sample_size=-1).write_parquet({out!r})"
    return f"{kind}, no Parquet: convert it: {_python(code)}"


def _python(code: str) -> str:
    """The command that runs ``code``."""
    plain = not set('"$`\\!') & set(code)
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def _nothing(folder: Path, others: list[Path]) -> UserError:
    """The error for a folder without Parquet files: it says what is there in their place."""
    if not others:
        hidden = sorted(entry.name for entry in folder.iterdir() if _hidden(entry.name))
        but = f" but hidden ones ({_names(hidden)})" if hidden else ""
        return UserError(f"{folder}: holds no files{but}: name the folder of the Parquet files")
    first = others[0]
    if _magic(first) == (MAGIC, MAGIC):
        return UserError(
            f"{folder}: holds no file that ends in {', '.join(ENDINGS)}, but {_names(others)}: "
            f"{first} is Parquet: rename it"
        )
    what = "is empty: write it anew" if not first.stat().st_size else f"is {_what(first)}"
    return UserError(f"{folder}: holds no Parquet file, but {_names(others)}: {first} {what}")


def _names(found: list[Path] | list[str]) -> str:
    names = [one if isinstance(one, str) else one.name for one in found]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
