"""What a caller gives from Python in, a table, a location or ids out; all else is refused."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from dat_rec.errors import UserError
from dat_rec.retrieval.item_table import Source
from dat_rec.storage.address import Address, location


def as_source(given: Any, name: str) -> Source | None:
    """A table or a file; text is the file's path or address.

    Raises:
        UserError: it is neither.
    """
    if isinstance(given, str):
        return location(given)
    if given is None or isinstance(given, pa.Table | Path | Address):
        return given
    raise UserError(
        f"{name}: is {type(given).__name__}: give an Arrow table, or the path of a Parquet file"
    )


def as_allowed(given: Any, name: str) -> Source | pa.Array | None:
    """A table, a file or ids; text is a file's path, and never one id.

    Raises:
        UserError: it is none of these.
    """
    if given is None or isinstance(given, str | pa.Table | Path | Address):
        return as_source(given, name)
    return as_array(given, name)


def as_array(ids: Any, name: str) -> pa.Array:
    """Ids as Arrow has them.

    Raises:
        UserError: they are no ids of one kind.
    """
    if isinstance(ids, pa.ChunkedArray):
        return ids.combine_chunks()
    if isinstance(ids, pa.Array):
        return ids
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise UserError(f"{name}: is {type(ids).__name__}: give a list of ids")
    try:
        return pa.array(list(ids), from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{name}: ids ({reason}): give integers alone, or text alone") from error
