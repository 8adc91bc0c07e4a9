"""Parquet files from queries."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.history import IDS
from dat_rec.data.prepare.write import write_batches, write_query


def test_a_result_not_read_to_its_end_is_in_nobodys_way(tmp_path: Path) -> None:
    with duckdb.connect() as database:
        database.execute("SELECT 1").fetchone()
        assert write_query(database, "SELECT 2 AS two", tmp_path / "two.parquet") == 1
    assert pq.read_table(tmp_path / "two.parquet").to_pylist() == [{"two": 2}]


def rows_of(rows: int) -> pa.RecordBatch:
    numbers = np.random.default_rng(0)
    history = numbers.integers(1, 2**31 - 1, 3 * rows).astype(np.int32)
    columns = {
        "user": pa.array(numbers.integers(-(2**31), 2**31 - 1, rows), pa.int32()),
        "user_id": pa.array([f"u{number}" for number in numbers.integers(0, 99, rows)]),
        "time": pa.array(numbers.integers(-(2**63), 2**63 - 1, rows), pa.int64()),
        "item_id": pa.array(numbers.integers(0, 2**64 - 1, rows, np.uint64)),
        "kind": pa.array(numbers.integers(0, 5, rows), pa.int32()),
        "history": pa.ListArray.from_arrays(
            pa.array(np.arange(rows + 1) * 3, pa.int32()), pa.array(history), type=IDS
        ),
    }
    fields = [pa.field(name, column.type, column.type != IDS) for name, column in columns.items()]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


def test_ids_and_times_are_differences_and_all_else_has_a_dictionary(tmp_path: Path) -> None:
    rows = rows_of(3_000)
    path = tmp_path / "rows.parquet"
    assert write_batches([rows], rows.schema, path) == 3_000
    file = pq.ParquetFile(path)
    assert file.read().equals(pa.Table.from_batches([rows]))
    columns = [file.metadata.row_group(0).column(number) for number in range(6)]
    differences = {
        one.path_in_schema: "DELTA_BINARY_PACKED" in one.encodings and not one.has_dictionary_page
        for one in columns
    }
    assert differences == {
        "user": True,
        "user_id": False,
        "time": True,
        "item_id": True,
        "kind": False,
        "history.list.element": True,
    }
    assert all(one.has_dictionary_page for one in columns if not differences[one.path_in_schema])
    # The reader of examples looks at the least and the greatest.
    assert all(one.is_stats_set for one in columns)


@pytest.mark.parametrize("sizes", [[1_000, 1, 99], [40] * 27 + [20], [1_100]])
def test_a_file_does_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr("dat_rec.data.prepare.write.ROW_GROUP", 256)
    monkeypatch.setattr("dat_rec.data.prepare.write.PIECE", 100)
    rows = rows_of(1_100)
    write_batches([rows.slice(0, 500), rows.slice(500)], rows.schema, tmp_path / "two.parquet")
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    batches = [rows.slice(start, size) for start, size in zip(starts, sizes, strict=True)]
    write_batches(batches, rows.schema, tmp_path / "many.parquet")
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()
    metadata = pq.read_metadata(tmp_path / "two.parquet")
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups == [256, 256, 256, 256, 76]
