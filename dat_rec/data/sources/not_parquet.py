"""A file that is no whole Parquet file in, what it is and the cure out."""

import re
import shlex
from pathlib import Path

from dat_rec.errors import UserError

MAGIC = b"PAR1"
LFS = b"version https://git-lfs"


def refuse_other(path: Path, begin: bytes, end: bytes) -> None:
    """Refuse a file whose first and last four bytes are not those of Parquet.

    Raises:
        UserError: says what the file is, and the cure.
    """
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
    raise UserError(f"{path}: is {what_it_is(path)}")


def what_it_is(path: Path) -> str:
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
        return f"ORC, no Parquet: convert it: {python(f'import {code}, {out!r})')}"
    if head.startswith((b"ARROW1", b"FEA1")):
        code = f"pyarrow.parquet as pq, pyarrow.feather as f; pq.write_table(f.read_table({name!r})"
        return f"Arrow (Feather), no Parquet: convert it: {python(f'import {code}, {out!r})')}"
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
    return f"{kind}, no Parquet: convert it: {python(code)}"


def python(code: str) -> str:
    """The command that runs ``code``."""
    plain = not set('"$`\\!') & set(code)
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"
