#!/usr/bin/env bash
# DuckDB 2.0.0 takes NaN in a Parquet file for a number, by the file's statistics.
#
# Parquet's least and largest value of a column leave NaN out, as its format asks. DuckDB folds
# comparisons by them: of a file with NaN, 1 and 2, isnan(x) is false and x BETWEEN 1 AND 2 true in
# every row, silently. isfinite(x) is not folded and right; so is isnan(x) over a table in memory, or
# over the same file written without statistics.
#
# Whoever reads pandas' floats, where NaN means none, should ask isfinite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"x": [float("nan"), 1.0, 2.0]})
pq.write_table(table, "with.parquet")
pq.write_table(table, "without.parquet", write_statistics=False)


memory_table = table


def rows(expression: str, relation: str) -> list[bool]:
    return [row[0] for row in duckdb.sql(f"SELECT {expression} FROM {relation}").fetchall()]


found = {
    (expression, relation): rows(expression, relation)
    for expression in ("isnan(x)", "x BETWEEN 1 AND 2", "isfinite(x)")
    for relation in ("'with.parquet'", "'without.parquet'", "memory_table")
}
print(f"duckdb {duckdb.__version__}, rows NaN, 1, 2")
for (expression, relation), values in found.items():
    print(f"{expression:20} {relation:18} {values}")
folded = [found["isnan(x)", "'with.parquet'"], found["x BETWEEN 1 AND 2", "'with.parquet'"]]
right = [found["isnan(x)", "'without.parquet'"], found["isfinite(x)", "'with.parquet'"]]
wanted = [[False] * 3, [True] * 3, [True, False, False], [False, True, True]]
sys.exit(folded + right != wanted)
PYTHON
echo "As described: DuckDB 2.0.0 said of NaN that it is no NaN, and between 1 and 2."
