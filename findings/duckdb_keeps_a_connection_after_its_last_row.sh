#!/usr/bin/env bash
# DuckDB 2.0 takes a result for unfinished until a fetch has come back empty. After
# execute("SELECT 1").fetchone(), which has given the only row that there is, sql(), register() and
# from_arrow() are refused on that connection, while another execute() and table() go through.
#
# So a library that asks for a count in this usual way breaks whoever next builds a relation on the
# same connection; with duckdb.execute() that is duckdb.sql() anywhere in the process, and in a test
# suite a test that has nothing to do with it, by the order in which tests happen to run. The
# relation itself is made without complaint: it fails when it is read, or when a debugger shows it.
# In 1.4 all of them go through.
#
# A cure is fetchall() for a single row, or complete() before a relation is made.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
cat > "$folder/ask.py" <<'PYTHON'
"""Print what can be done on a connection whose only row has been fetched."""

import sys

import duckdb
import pyarrow as pa

TABLE = pa.table({"a": [1]})
WAYS = {
    "execute": lambda c: c.execute("SELECT 2").fetchall(),
    "table": lambda c: c.table("t").columns,
    "sql": lambda c: c.sql("SELECT 2").fetchall(),
    "register": lambda c: c.register("x", TABLE),
    "from_arrow": lambda c: c.from_arrow(TABLE).fetchall(),
}
refused = []
for name, way in WAYS.items():
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (a INTEGER)")
    assert connection.execute("SELECT 1").fetchone() == (1,)
    try:
        way(connection)
    except duckdb.Error as error:
        refused.append(f"{name} ({type(error).__name__})")
print(f"duckdb {duckdb.__version__}: refused after fetchone(): {', '.join(refused) or 'nothing'}")
first = [name.partition(" ")[0] for name in refused]
expected = ["sql", "register", "from_arrow"] if sys.argv[1] == "2" else []
sys.exit(first != expected)
PYTHON
pip duckdb==1.4.4 pyarrow==26.0.1
"$folder/venv/bin/python" "$folder/ask.py" 1
pip duckdb==2.0.0
"$folder/venv/bin/python" "$folder/ask.py" 2
echo "As described: in 2.0 a connection is in use after its last row, in 1.4 it is not."
