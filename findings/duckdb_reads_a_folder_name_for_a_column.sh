#!/usr/bin/env bash
# DuckDB 2.0.0 does not read back what it wrote, where a folder on the way is called like a column.
#
# COPY writes one Parquet file, by its full name, below a folder `user_id=7`. read_parquet of that one
# name, without a pattern and without asking for hive partitions, returns 7 in every row: the folder's
# name takes the place of the column that the file holds, silently. The type stays BIGINT, so that no
# later check of types sees it. pyarrow, pandas and polars return the file's own values for the same
# name; polars does as DuckDB only where it is given the folder above.
#
# Whoever keeps temporary files of DuckDB below a folder of somebody else's naming (sweeps make
# `lr=0.1/user_id=7/`) must pass hive_partitioning=false with every read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    duckdb==2.0.0 pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1
mkdir "$folder/logs"
cd "$folder/logs"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq

Path("user_id=7").mkdir()
path = "user_id=7/log.parquet"
duckdb.execute(f"COPY (SELECT * FROM (VALUES (1, 10), (2, 20)) AS log(user_id, item_id)) TO '{path}' (FORMAT parquet)")


def read_by_duckdb(options: str = "") -> list[int]:
    rows = duckdb.sql(f"SELECT user_id FROM read_parquet('{path}'{options})").fetchall()
    return [row[0] for row in rows]


found = {
    f"duckdb {duckdb.__version__}, the file": read_by_duckdb(),
    "duckdb, hive_partitioning=false": read_by_duckdb(", hive_partitioning=false"),
    "pyarrow, the file": pq.read_table(path)["user_id"].to_pylist(),
    "pandas, the file": pd.read_parquet(path)["user_id"].tolist(),
    "polars, the file": pl.read_parquet(path)["user_id"].to_list(),
    "polars, the folder above": pl.read_parquet(".")["user_id"].to_list(),
}
for what, values in found.items():
    print(f"{what:35} user_id = {values}")
sys.exit(list(found.values()) != [[7, 7], [1, 2], [1, 2], [1, 2], [1, 2], [7, 7]])
PYTHON
echo "As described: DuckDB 2.0.0 returned the folder's 7 for the 1 and 2 that it had written."
