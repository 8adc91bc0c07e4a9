"""Parquet files from queries."""

from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from dat_rec.data.prepare.write import write_query


def test_a_result_not_read_to_its_end_is_in_nobodys_way(tmp_path: Path) -> None:
    with duckdb.connect() as database:
        database.execute("SELECT 1").fetchone()
        assert write_query(database, "SELECT 2 AS two", tmp_path / "two.parquet") == 1
    assert pq.read_table(tmp_path / "two.parquet").to_pylist() == [{"two": 2}]
