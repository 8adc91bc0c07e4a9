"""What a checkpoint holds, read by other means than the project's own: safetensors and JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def saved_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor, made whole from the blocks of all files."""
    index = json.loads((checkpoint / "checkpoint.json").read_text())
    files = {path.name: load_file(path) for path in checkpoint.glob("*.safetensors")}
    whole: dict[str, Tensor] = {}
    filled: dict[str, Tensor] = {}
    for entry in index["tensors"]:
        name, offsets = entry["name"], entry["offsets"]
        block = files[entry["file"]].pop(f"{name}@{','.join(map(str, offsets))}")
        assert list(block.shape) == entry["sizes"]
        target = whole.setdefault(name, torch.empty(entry["shape"], dtype=block.dtype))
        times = filled.setdefault(name, torch.zeros(entry["shape"]))
        part = tuple(slice(o, o + n) for o, n in zip(offsets, entry["sizes"], strict=True))
        target[part] = block
        times[part] += 1
    assert not any(files.values()), "a file holds a block that the index does not name"
    for name, times in filled.items():
        assert (times == 1).all(), f"{name} has gaps, or numbers twice"
    return whole


def saved_digests(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of each, to be compared bit for bit.

    Not the bytes themselves: of those that differ pytest makes a readable difference, for hours.
    """
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in sorted(saved_tensors(checkpoint).items())
    }


def facts(checkpoint: Path) -> dict[str, Any]:
    """What else checkpoint.json holds."""
    index: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text())
    index.pop("tensors")
    return index
