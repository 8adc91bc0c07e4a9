#!/usr/bin/env bash
# onnxruntime 1.32.0 on the CPU gives wrong sums of ScatterND with reduction "add" where an index comes
# more than once, as soon as it has more than one thread, which is its default. Nothing is said.
#
# ONNX defines the reduction for indices that repeat. The kernel shares the updates out among the
# threads, which add to the same numbers at once; one sum of a million ones comes out as half a million.
# It shows only on large inputs, and not in every call, so that a check on a few rows passes.
#
# A cure is a session of one thread (intra_op_num_threads = 1), or another way to sum: ScatterElements
# is right, and slow.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2
cat > "$folder/scatter.py" <<'PYTHON'
"""Sum a million ones in one place, on one thread and on several."""

import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

shapes = {"zeros": ("b", "d"), "places": ("v", 1), "rows": ("v", "d"), "sums": ("b", "d")}
types = {"places": TensorProto.INT64}
values = {
    name: helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)
    for name, shape in shapes.items()
}
node = helper.make_node("ScatterND", ["zeros", "places", "rows"], ["sums"], reduction="add")
*inputs, output = values.values()
graph = helper.make_graph([node], "scatter", inputs, [output])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
count = 1_000_000
given = {
    "zeros": np.zeros((1, 8), np.float32),
    "places": np.zeros((count, 1), np.int64),
    "rows": np.ones((count, 8), np.float32),
}


def wrong(threads: int, calls: int) -> int:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = [session.run(None, given)[0] for _ in range(calls)]
    return sum(bool((one != count).any()) for one in found)


alone, together, calls = wrong(1, 50), 0, 0
while not together and calls < 1000:  # A busy machine seldom runs two threads at once.
    together, calls = wrong(4, 50), calls + 50
print(f"wrong sums: {alone} of 50 on one thread, {together} of the last 50 of {calls} on four")
sys.exit(not (alone == 0 and together > 0))
PYTHON
"$folder/venv/bin/python" "$folder/scatter.py"
echo "As described: threads add to one place at once, and rows are lost."
