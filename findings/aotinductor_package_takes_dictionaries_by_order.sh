#!/usr/bin/env bash
# A package that torch 2.13.0's AOTInductor has compiled takes the values of a dictionary in the order
# in which they stand, and does not look at the keys: {"b": …, "a": …} for a program that was exported
# with {"a": …, "b": …} is computed with a and b exchanged. No error is raised, and none of wrong keys
# either. The exported program itself (torch.export.load) sorts the same dictionary out by its keys.
#
# Whoever builds the inputs from a schema, or of JSON, must keep the order of the export.
#
# Needs a C++ compiler.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat >"$folder/order.py" <<'PYTHON'
import sys

import torch


class Difference(torch.nn.Module):
    def forward(self, of):
        return of["a"] - 10 * of["b"]


a, b = torch.tensor([1.0]), torch.tensor([2.0])
program = torch.export.export(Difference(), ({"a": a, "b": b},))
package = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])
compiled, exported = torch._inductor.aoti_load_package(package), program.module()
print("as exported:", compiled({"a": a, "b": b}).item(), exported({"a": a, "b": b}).item())
print("in another order:", compiled({"b": b, "a": a}).item(), exported({"b": b, "a": a}).item())
print("under other keys:", compiled({"x": a, "y": b}).item())
PYTHON
TORCHINDUCTOR_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore \
    "$folder/order.py" "$folder/difference.pt2" 2>"$folder/errors" >"$folder/out" || {
    tail -3 "$folder/errors"
    exit 1
}
cat "$folder/out"
printf '%s\n' "as exported: -19.0 -19.0" "in another order: -8.0 -19.0" "under other keys: -19.0" |
    cmp -s - "$folder/out"
