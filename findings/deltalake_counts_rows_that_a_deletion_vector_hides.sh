#!/usr/bin/env bash
# deltalake's DeltaTable.count() counts the rows that a deletion vector hides; a query of the same
# version does not return them.
#
# count() sums the files' numRows, which the Delta protocol has say how many rows lie in a file, the
# deleted ones included. So of a table from which Spark or Databricks deletes by deletion vectors, the
# count is too large by all that was deleted since the files were last rewritten: a job that compares it
# with the rows that it has read finds rows missing, and one that divides by it is wrong in silence.
#
# deltalake writes no deletion vectors, so the table's second version is written here as the protocol
# describes it: one file, ten rows, four of them deleted by an inline vector.
#
# A cure is to count by a query: QueryBuilder, SELECT count(*).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    deltalake==1.6.6 pyarrow==26.0.1 pyroaring==1.2.0
cat > "$folder/counts.py" <<'PYTHON'
"""Print how many rows a table with a deletion vector has, by count() and by a query."""

import base64
import json
import struct
import sys
from pathlib import Path

import deltalake
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from pyroaring import BitMap

PLAIN = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

folder = Path(sys.argv[1]) / "table"
write_deltalake(folder, pa.table({"row": list(range(10))}))
log = folder / "_delta_log"
first = [json.loads(line) for line in (log / f"{0:020}.json").read_text().splitlines()]
add = next(action["add"] for action in first if "add" in action)
# Magic number of the 64-bit bitmap array, one bucket, its key, the rows' bitmap.
bits = struct.pack("<IQI", 1681511377, 1, 0) + BitMap([2, 3, 5, 7]).serialize()
words = base64.b85encode(bits + bytes(-len(bits) % 4)).translate(bytes.maketrans(PLAIN, Z85))
vector = {
    "storageType": "i",
    "pathOrInlineDv": words.decode(),
    "sizeInBytes": len(bits),
    "cardinality": 4,
}
features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
second = [
    {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
    {"remove": {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}},
    {"add": {**add, "deletionVector": vector}},
    {"commitInfo": {"timestamp": 1, "operation": "DELETE"}},
]
(log / f"{1:020}.json").write_text("\n".join(map(json.dumps, second)))

table = DeltaTable(folder)
query = QueryBuilder().register("t", table).execute('SELECT "row" FROM t ORDER BY "row"')
rows = pa.RecordBatchReader.from_stream(query).read_all().column(0).to_pylist()
print(f"deltalake {deltalake.__version__}, version {table.version()} of the table")
print("count():", table.count())
print("rows of a query:", rows)
sys.exit((table.count(), rows) != (10, [0, 1, 4, 6, 8, 9]))
PYTHON
"$folder/venv/bin/python" "$folder/counts.py" "$folder" 2> "$folder/log" || {
    cat "$folder/log" >&2
    exit 1
}
echo "As described: count() has the deleted rows, and a query has not."
