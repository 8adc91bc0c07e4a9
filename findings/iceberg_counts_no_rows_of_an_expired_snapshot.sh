#!/usr/bin/env bash
# pyiceberg counts 0 rows of a snapshot that has been expired, and plans no files for it; only reading
# the rows raises an error.
#
# A job that keeps the id of the snapshot it last saw, and asks count() or plan_files() before it
# reads, takes an expired snapshot for an empty table. to_arrow() and to_arrow_batch_reader() name the
# missing id instead. The same holds for an id that never was.
#
# A cure is to ask table.snapshot_by_id(id) first, which gives None.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyiceberg==0.12.0 pyarrow==26.0.1 sqlalchemy
cat > "$folder/expired.py" <<'PYTHON'
"""Print what a table says of a snapshot before and after it has been expired."""

import sys

import pyarrow as pa
import pyiceberg
from pyiceberg.catalog.memory import InMemoryCatalog

catalog = InMemoryCatalog("local", warehouse=f"file://{sys.argv[1]}/warehouse")
catalog.create_namespace("shop")
table = catalog.create_table("shop.events", schema=pa.schema([("item", pa.int64())]))
table.append(pa.table({"item": [1, 2, 3]}))
first = table.current_snapshot().snapshot_id
table.append(pa.table({"item": [4]}))


def answers() -> tuple[int, int, str]:
    table.refresh()
    scan = table.scan(snapshot_id=first)
    try:
        read = str(scan.to_arrow().num_rows)
    except ValueError as error:
        read = str(error).replace(str(first), "ID")
    return scan.count(), len(list(scan.plan_files())), read


before = answers()
table.maintenance.expire_snapshots().by_id(first).commit()
after = answers()
print(f"pyiceberg {pyiceberg.__version__}: rows counted, files planned, rows read")
print("before the snapshot is expired:", *before)
print("afterwards:", *after)
sys.exit((before, after) != ((3, 1, "3"), (0, 0, "Snapshot not found: ID")))
PYTHON
"$folder/venv/bin/python" "$folder/expired.py" "$folder" 2> "$folder/log" || {
    cat "$folder/log" >&2
    exit 1
}
echo "As described: an expired snapshot counts 0 rows, and only reading it is an error."
