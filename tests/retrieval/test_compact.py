"""What Parquet writes in few bytes is read back as it was, and takes few."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.retrieval.compact import parquet_options


def table(rows: int) -> pa.Table:
    """Columns of every kind that an export has, with nulls and empty lists."""
    rng = np.random.default_rng(0)
    ends = np.append(0, np.cumsum(rng.integers(0, 9, rows)))
    numbers = pa.array(rng.integers(0, 5000, ends[-1]).astype(np.int32))
    texts = pa.array(rng.choice(["a", "b", "c c", "ü"], ends[-1]))
    return pa.table(
        {
            "item_id": rng.permutation(rows) + 10**12,
            "name": [f"n{number}" for number in rng.permutation(rows)],
            "count": pa.array(
                rng.integers(0, 9, rows).astype(np.int32), mask=rng.random(rows) < 0.1
            ),
            "price": rng.normal(size=rows),
            "fresh": rng.random(rows) < 0.5,
            "history": pa.LargeListArray.from_arrays(ends, numbers),
            "tags": pa.LargeListArray.from_arrays(ends, texts),
            "small": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.integers(-127, 128, rows * 8).astype(np.int8)), 8
            ),
            "halves": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.normal(size=rows * 8).astype(np.float16)), 8
            ),
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 3000])
def test_arrow_and_duckdb_read_what_was_written(tmp_path: Path, rows: int) -> None:
    written, path = table(rows), tmp_path / "part.parquet"
    pq.write_table(written, path, **parquet_options(written.schema))
    assert pq.read_table(path).to_pylist() == written.to_pylist()
    names = ["item_id", "name", "count", "price", "fresh", "history", "tags", "small"]
    read = duckdb.sql(f"SELECT {', '.join(names)} FROM '{path}'").fetchall()
    columns = [row.values() for row in written.select(names).to_pylist()]
    plain = [[list(one) if isinstance(one, tuple) else one for one in row] for row in read]
    assert plain == [list(row) for row in columns]


def test_numbers_take_as_many_bits_as_they_need(tmp_path: Path) -> None:
    rows = 20_000
    written, path = table(rows), tmp_path / "part.parquet"
    sizes = {}
    for name in written.column_names:
        one = written.select([name])
        pq.write_table(one, path, **parquet_options(one.schema))
        sizes[name] = path.stat().st_size / rows
    # 14 bits for the difference of each of four, and their number; 8 and 16 for each of eight.
    assert sizes["history"] < 4 * 14 / 8 + 1
    assert sizes["small"] < 8.2
    assert sizes["halves"] < 16.2
    assert sizes["item_id"] < 2.3
