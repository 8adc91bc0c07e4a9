"""A dataset in, what raw values of its features mean out: ``inputs.json`` and ``vocabularies/``."""

import math
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ANEW, ITEM, USER
from dat_rec.errors import UserError
from dat_rec.retrieval.feature_rows import RowGroups
from dat_rec.retrieval.raw_inputs import VOCABULARIES, inputs_of
from dat_rec.storage.read import exists

COLUMNS = ("index", "value")
MOST_BUCKETS = 2**16
"""Maximum number of rows of a vocabulary that is read to see whether it holds buckets."""


def write_inputs(dataset: Dataset, folder: Path) -> list[str]:
    """Copy the vocabularies, row group by row group, and write what the features are made of.

    Returns:
        The names of the vocabularies' files, in the export.

    Raises:
        UserError: a vocabulary cannot be read, or has another number of rows than its table.
    """
    (folder / VOCABULARIES).mkdir()
    edges: dict[str, tuple[float, ...] | None] = {}
    tables = {one.table: one.rows for one in dataset.schema.features}
    for table, rows in sorted(tables.items()):
        path = dataset.folder / "vocabularies" / f"{table}.parquet"
        if table not in (USER, ITEM) and "/" not in table and exists(path):
            edges[table] = _copy(RowGroups(path, COLUMNS), rows, folder / name_of(table))
    inputs_of(dataset.schema, edges).save(folder)
    return [name_of(table) for table in edges]


def name_of(table: str) -> str:
    """The path of a table's vocabulary, in the export."""
    return f"{VOCABULARIES}/{table}.parquet"


def _copy(source: RowGroups, rows: int, target: Path) -> tuple[float, ...] | None:
    """Copy a vocabulary; return its buckets' edges, None if it holds none."""
    found = int(source.bounds[-1])
    if found != rows:
        raise UserError(
            f"{source.path}: {found} rows, schema.json says {rows} of its table: {ANEW}"
        )
    # Otherwise each dataset's own types would be for readers to know.
    schema = pa.schema({"index": pa.int64(), "value": pa.large_string()})
    first = pa.concat_tables([schema.empty_table()])
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for group in range(len(source.bounds) - 1):
            try:
                part = source.read(group).cast(schema)
            except (pa.ArrowException, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{source.path}: is no vocabulary ({reason}): {ANEW}") from error
            writer.write_table(part)
            if len(first) < MOST_BUCKETS:
                first = pa.concat_tables([first, part])
    return _edges(first) if rows <= MOST_BUCKETS else None


def _edges(vocabulary: pa.Table) -> tuple[float, ...] | None:
    """The edges of ``[-inf, a)``, ``[a, b)``, … ``[z, inf)``; None if that is not what it lists."""
    texts = vocabulary.sort_by("index")["value"].to_pylist()[1:]
    starts, stops = [], []
    for text in texts:
        if text is None or not (text.startswith("[") and text.endswith(")")):
            return None
        parts = text[1:-1].split(", ")
        try:
            start, stop = map(float, parts)
        except ValueError:
            return None
        starts.append(start)
        stops.append(stop)
    if not starts or starts[0] != -math.inf or stops[-1] != math.inf or starts[1:] != stops[:-1]:
        return None
    edges = starts[1:]
    return tuple(edges) if all(one < other for one, other in pairwise(edges)) else None
