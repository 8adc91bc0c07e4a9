#!/usr/bin/env bash
# torch.export.save (torch 2.13.0) writes into the .pt2 archive where the model's source lay: the same
# module with the same weights gives other bytes when it is exported from another folder.
#
# models/model.json holds a stack trace for each node, with absolute paths and the text of the source
# lines. A checksum over exports of two machines differs though nothing else does, and whoever gets
# the file can read the paths.
#
# A cure is to drop "stack_trace" from each node's meta before saving, in nested graphs too: autocast
# makes one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
mkdir "$folder/first" "$folder/second"
cat >"$folder/first/tower.py" <<'PYTHON'
import json
import sys
import zipfile

import torch


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, features):
        return self.layer(features) + 1


torch.manual_seed(0)
for name, bare in (("tower.pt2", False), ("bare.pt2", True)):
    program = torch.export.export(Tower(), (torch.zeros(4, 3),))
    if bare:
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
    torch.export.save(program, name)
    with zipfile.ZipFile(name) as archive:
        (model,) = (one for one in archive.namelist() if one.endswith("models/model.json"))
        with open(name + ".json", "wb") as file:
            file.write(archive.read(model))
PYTHON
cp "$folder/first/tower.py" "$folder/second/tower.py"
for place in first second; do
    (cd "$folder/$place" && "$folder/venv/bin/python" -W ignore "$folder/$place/tower.py" 2>/dev/null)
done
with=$(grep -c "$folder/first/tower.py" "$folder/first/tower.pt2.json" || true)
without=$(grep -c "$folder/first/tower.py" "$folder/first/bare.pt2.json" || true)
same=$(cmp -s "$folder/first/bare.pt2.json" "$folder/second/bare.pt2.json" && echo yes || echo no)
same_with=$(cmp -s "$folder/first/tower.pt2.json" "$folder/second/tower.pt2.json" && echo yes || echo no)
echo "lines with the source's path: $with; without stack traces: $without"
echo "programs of two folders equal: $same_with; without stack traces: $same"
[ "$with" -gt 0 ] && [ "$without" = 0 ] && [ "$same_with" = no ] && [ "$same" = yes ]
