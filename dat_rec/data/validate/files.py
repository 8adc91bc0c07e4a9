"""A dataset's folder and schema in, the faults of its files out; no value is read.

Which files there are, their columns' names and types, their numbers of rows, their SHA-256.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.dense import holds_numbers, holds_vectors
from dat_rec.data.digests import DIGESTS, digests_of, files_below
from dat_rec.data.progress import Progress
from dat_rec.data.schema import (
    EXAMPLE_WEIGHT,
    ITEM,
    RECENT,
    SIDES,
    USER,
    DenseFeature,
    Feature,
    Schema,
)
from dat_rec.data.source import SEQUENCE
from dat_rec.data.validate.fault import Fault
from dat_rec.errors import UserError
from dat_rec.files import read_json

ANEW = "write the file anew"
VALIDATION, WAITING = "validation.parquet", "waiting.parquet"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


KINDS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "an integer": pa.types.is_integer,
    "an integer or text": lambda kind: pa.types.is_integer(kind) or _is_text(kind),
    "text": _is_text,
    "a 64-bit integer": pa.types.is_int64,
    "true or false": pa.types.is_boolean,
    "a list of integers": lambda kind: (
        (pa.types.is_list(kind) or pa.types.is_large_list(kind))
        and pa.types.is_integer(kind.value_type)
    ),
    "a number": holds_numbers,
    "a float": pa.types.is_floating,
    "a list of floats": holds_vectors,
}
"""What a column may be, in words."""


def columns_of_files(schema: Schema) -> dict[str, dict[str, str]]:
    """The columns of each file (path below the folder): name → what it must be, in words."""
    query, item = (_kinds(schema.side(side)) for side in SIDES)
    query_dense, item_dense = (_dense_kinds(schema.dense_side(side)) for side in SIDES)
    ids, number, time = "an integer or text", "an integer", "a 64-bit integer"
    pair = {"user_row": number, "item_index": number}
    names = {"item_id": ids, "title": "text", "category_name": "text", "train_count": number}
    recent = {RECENT: "a number"} if schema.trend else {}
    weight = {} if schema.example_weights is None else {EXAMPLE_WEIGHT: "a float"}
    example = {**query, **item, "item_index": number, "time": time, "repeat": "true or false"}
    tables = {feature.table for feature in schema.features} - {USER, ITEM}
    return {
        "users.parquet": {"user_id": ids, "trained": "true or false", **query, **query_dense},
        "items.parquet": {**names, **recent, **item, **item_dense},
        **{name: {**pair, "count": number} for name in schema.seen_paths},
        **{
            name: {**pair, "time": time, **(weight if name != WAITING else {})}
            for name in held_out_files(schema)
        },
        **{name: {**pair, "time": time} for name in schema.past_paths},
        **{file.path: {**example, **weight} for file in schema.example_files},
        **{
            f"vocabularies/{table}.parquet": {"index": number, "value": "text"}
            for table in sorted(tables)
        },
    }


def _kinds(features: tuple[Feature, ...]) -> dict[str, str]:
    return {f.name: "a list of integers" if f.multi_valued else "an integer" for f in features}


def _dense_kinds(features: tuple[DenseFeature, ...]) -> dict[str, str]:
    return {f.name: "a number" if f.kind == "number" else "a list of floats" for f in features}


def held_out_files(schema: Schema) -> dict[str, int]:
    """The files of interactions that are not trained on, or not yet, and their rows."""
    optional = {VALIDATION: schema.validation, WAITING: schema.waiting}
    found = {name: rows for name, rows in optional.items() if rows}
    return {**found, "test.parquet": schema.tests}


def rows_of_files(schema: Schema) -> dict[str, int]:
    """The number of rows of each file for which the schema tells it."""
    tables = {feature.table: feature.rows for feature in schema.features}
    return {
        "users.parquet": schema.users,
        "items.parquet": schema.items,
        **held_out_files(schema),
        **(dict.fromkeys(schema.past_paths, schema.past) if not schema.past_files else {}),
        **{file.path: file.rows for file in schema.example_files},
        **{f"vocabularies/{name}.parquet": rows for name, rows in tables.items()},
    }


def file_faults(folder: Path, schema: Schema) -> dict[str, list[Fault]]:
    """The faults of each file that must be there; and of those that must not."""
    wanted, rows = columns_of_files(schema), rows_of_files(schema)
    found = {
        path: list(_table_faults(folder / path, columns, rows.get(path)))
        for path, columns in wanted.items()
    }
    for path in (
        *sorted(folder.glob("examples/*")),
        *sorted(folder.glob("vocabularies/*")),
        *folder.glob(VALIDATION),
        *folder.glob(WAITING),
        *(path for name in ("seen", "past") for path in sorted(folder.glob(f"{name}/*"))),
        *(path for name in ("seen", "past") for path in folder.glob(f"{name}.parquet")),
    ):
        name = path.relative_to(folder).as_posix()
        if name not in wanted and not path.name.startswith((".", "_")):
            cure = "remove it, or name it in schema.json"
            found[name] = [Fault(str(path), "schema.json knows of no such file", cure)]
    return found


def _table_faults(path: Path, columns: Mapping[str, str], rows: int | None) -> Iterator[Fault]:
    if not path.is_file():
        yield Fault(str(path), "the file is missing", "write it, or remove it from schema.json")
        return
    try:
        metadata = pq.read_metadata(path)
        kinds = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        yield Fault(str(path), f"cannot be read as Parquet ({reason})", ANEW)
        return
    if SEQUENCE in kinds.names:
        columns = {**columns, SEQUENCE: "a 64-bit integer"} if "time" in columns else columns
    for name, kind in columns.items():
        times = kinds.names.count(name)
        if times != 1:
            what = "stands there twice" if times else "is missing"
            yield Fault(str(path), f"column {name!r} {what}", ANEW)
        elif not KINDS[kind](kinds.field(name).type):
            what = f"column {name!r} is {kinds.field(name).type}, not {kind}"
            yield Fault(str(path), what, ANEW)
    if rows is not None and metadata.num_rows != rows:
        what = f"{metadata.num_rows} rows, and schema.json says {rows}"
        yield Fault(str(path), what, "write the file or schema.json anew")


def digest_faults(folder: Path, progress: Progress, threads: int) -> list[Fault]:
    """The files whose SHA-256 is another than sha256.json says; nothing without that file."""
    path = folder / DIGESTS
    if not path.exists():
        return []
    cure = "write the dataset anew, or copy it anew from where it came"
    try:
        said = read_json(path, "the digests")
    except UserError as error:
        return [Fault(str(path), str(error).partition(": ")[2], cure)]
    found = digests_of(folder, files_below(folder), progress, threads)
    if not isinstance(said, dict):
        return [Fault(str(path), "is no object of paths and digests", cure)]
    faults = []
    for name in sorted({*said, *found}):
        if name not in found:
            faults.append(Fault(str(folder / name), f"{DIGESTS} names it, and it is missing", cure))
        elif name not in said:
            faults.append(Fault(str(folder / name), f"{DIGESTS} does not name it", cure))
        elif said[name] != found[name]:
            faults.append(Fault(str(folder / name), f"SHA-256 differs from {DIGESTS}", cure))
    return faults
