"""Two query towers' files in, their difference out, of which and the base's comes the new file.

``records.parquet`` holds the name of each record of the archive, in order, and its content: null
for one that is the same in the base, and for a table. A table's rows stand in a folder of its
parameter's name (``matrices.py``). They are matched by what they hold: every dataset numbers rows
as it likes, and a row that has moved and not changed is known by its content alone.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.errors import UserError
from dat_rec.retrieval.delta.matrices import (
    Matrix,
    alike_rows,
    new_blocks,
    write_matrix_difference,
)
from dat_rec.retrieval.tower_file import (
    Content,
    as_content,
    read_records,
    tables_of,
    write_records,
)

RECORDS = "records.parquet"
ROW = "row"
NO_TABLE: Matrix = np.empty((0, 0), np.float32)


def write_tower_difference(folder: Path, new: Path, base: Path) -> None:
    """Write what differs between the files of two query towers.

    Args:
        folder: to be made.
        new: file of ``write_tower``.
        base: another one.
    """
    folder.mkdir(parents=True)
    ours, theirs = read_records(new), read_records(base)
    tables = tables_of(ours.contents)
    contents = [
        None if name in tables or content == theirs.contents.get(name) else content
        for name, content in ours.contents.items()
    ]
    records = {"name": list(ours.contents), "content": pa.array(contents, pa.large_binary())}
    pq.write_table(pa.table(records), folder / RECORDS, compression="zstd", use_dictionary=False)
    for name, table in ours.tables.items():
        before = theirs.tables.get(name, NO_TABLE)
        write_matrix_difference(folder / name, table, before, alike_rows(table, before), ROW)


def write_new_tower(folder: Path, base: Path, path: Path) -> None:
    """Write the file that ``write_tower_difference`` saw as the new one.

    Args:
        folder: of the difference.
        base: the base's file.
        path: the file to write.

    Raises:
        UserError: the difference does not fit the base.
    """
    before = read_records(base)
    records = pq.ParquetFile(folder / RECORDS).read().to_pylist()
    contents: dict[str, bytes] = {
        record["name"]: before.contents.get(record["name"], b"")
        if record["content"] is None
        else record["content"]
        for record in records
    }
    try:
        tables = tables_of(contents)
    except ValueError as error:
        raise UserError(f"{folder / RECORDS}: is of no query tower: make the delta anew") from error

    def parts() -> Iterator[tuple[str, Iterable[Content]]]:
        for name, content in contents.items():
            if table := tables.get(name):
                blocks = new_blocks(folder / table, before.tables.get(table, NO_TABLE), ROW)
                yield name, (as_content(block) for block in blocks)
            else:
                yield name, [content]

    write_records(path, parts())
