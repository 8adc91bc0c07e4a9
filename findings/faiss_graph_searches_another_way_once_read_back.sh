#!/usr/bin/env bash
# An HNSW graph of faiss whose metric_type is changed after it was built returns the worst items; the
# same index written to a file and read back returns the best ones.
#
# A graph built by distance and searched by inner product is a known recipe for maximum inner product.
# metric_type of the index and of its storage say how scores are computed, but the direction of the
# search comes from hnsw.is_similarity, which the constructor sets and a change of metric_type does
# not. read_index sets it anew from the metric in the file. So nothing is said in memory, recall is
# nought, and a service that loads the file differs from the process that made it.
#
# A cure is to set hnsw.is_similarity beside metric_type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
cat > "$folder/graph.py" <<'PYTHON'
"""Print the recall of one graph before and after it has been a file."""

import sys

import faiss
import numpy as np

rng = np.random.default_rng(0)
items = rng.standard_normal((5000, 16), np.float32) * rng.uniform(0.5, 2, (5000, 1)).astype("f4")
queries = rng.standard_normal((100, 16), np.float32)
best = np.argsort(-(queries @ items.T), axis=1)[:, :10]


def recall(index) -> float:
    index.hnsw.efSearch = 200
    _, found = index.search(queries, 10)
    return float(np.mean([len({*a} & {*b}) for a, b in zip(found.tolist(), best.tolist())]) / 10)


graph = faiss.IndexHNSWFlat(16, 16)
graph.add(items)
for index in (graph, faiss.downcast_index(graph.storage)):
    index.metric_type = faiss.METRIC_INNER_PRODUCT
before = recall(graph)
faiss.write_index(graph, sys.argv[1])
read = faiss.read_index(sys.argv[1])
after = recall(read)
print(f"faiss {faiss.__version__}: recall {before:.2f} in memory, {after:.2f} from its file")
sys.exit(not (before < 0.05 and after > 0.7 and read.hnsw.is_similarity))
PYTHON
"$folder/venv/bin/python" "$folder/graph.py" "$folder/graph.faiss"
echo "As described: the metric alone does not turn the search round; reading the file does."
