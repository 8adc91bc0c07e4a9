#!/usr/bin/env bash
# torch.onnx.export (torch 2.13.0, dynamo=True, onnxscript 0.7.2) rounds a number that stands in a float64
# computation to float32, and makes float64 of what is left: x - 1700000513.7, with x in float64, subtracts
# 1700000512 in the ONNX file. Times in seconds, and the means that normalise them, are off by up to 64.
#
# The number becomes aten.scalar_tensor with dtype float64, whose translation takes it as a float32
# constant first. A cure is a translation of one's own for aten.scalar_tensor (custom_translation_table) that
# makes the constant in its dtype at once, or the number as a float64 buffer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy \
    onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cat >"$folder/number.py" <<'PYTHON'
import sys

import onnxruntime
import torch

MEAN = 1700000513.7


class Written(torch.nn.Module):
    def forward(self, x):
        return x - MEAN


class Buffered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN, dtype=torch.float64))

    def forward(self, x):
        return x - self.mean


x = torch.tensor([1_700_000_000.0], dtype=torch.float64)
off = {}
for module in (Written(), Buffered()):
    made = torch.onnx.export(torch.export.export(module, (x,)), dynamo=True, verbose=False)
    made.save(sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[1])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert found.dtype == "float64"
    name = type(module).__name__
    off[name] = abs(found.item() - module(x).item())
    print(f"{name}: torch {module(x).item():.4f}, the ONNX file {found.item():.4f}")
sys.exit(not (off["Written"] > 1 and off["Buffered"] == 0))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/number.py" "$folder/number.onnx" 2>/dev/null
echo "As described: the number has lost what float32 does not hold."
