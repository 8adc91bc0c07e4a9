#!/usr/bin/env bash
# A DuckDB database in a folder whose name holds a question mark opens, and its first commit fails.
#
# DuckDB makes the name of the write-ahead log by putting ".wal" before the first "?" of the path, as
# if what follows were the parameters of a URL. That is right for a database behind HTTP; on a disk it
# leads to a folder that is not there. Where the question mark is in the file's own name, the log stands
# beside it under a name that does not end in ".wal". Parquet files in such a folder are read and
# written as everywhere.
#
# A cure is a working folder of one's own without "?", for a database that only works for a while.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0
cat > "$folder/log.py" <<'PYTHON'
"""Print what becomes of a first commit, by where the question mark stands."""

import sys
from pathlib import Path

import duckdb

found = {}
for name in ("plain/log.duckdb", "plain/log?.duckdb", "day?1/log.duckdb"):
    path = Path(sys.argv[1], name)
    path.parent.mkdir(exist_ok=True)
    database = duckdb.connect(str(path))
    try:
        database.execute("CREATE TABLE t AS SELECT 1 AS x")
        beside = {other.name for other in path.parent.iterdir()} - {path.name}
        found[name] = "the log is " + ", ".join(sorted(other for other in beside if ".wal" in other))
        database.close()
        path.unlink()
    except duckdb.Error as error:
        found[name] = str(error).replace(sys.argv[1], "DIR")
    print(f"duckdb {duckdb.__version__}, {name}: {found[name]}")
sys.exit(
    not (
        found["plain/log.duckdb"] == "the log is log.duckdb.wal"
        and found["plain/log?.duckdb"] == "the log is log.wal?.duckdb"
        and "DIR/day.wal?1/log.duckdb" in found["day?1/log.duckdb"]
    )
)
PYTHON
"$folder/venv/bin/python" "$folder/log.py" "$folder"
echo "As described: below such a folder the first commit fails."
