"""Write blocks of named tensors into safetensors files, with entries for an index.

Each rank writes the blocks that it holds into a file of its own; the index says which rows and
columns of which tensor stand in which file. No more than ``CHUNK_BYTES`` of memory is needed beside
the tensors themselves. The files open with the ``safetensors`` library too.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 2**24
"""Maximum bytes that are copied at a time, unless one row has more."""
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""Names in the safetensors format of the dtypes that occur."""
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Block:
    """A block of a named tensor, on its way to a file."""

    name: str
    """Name of the whole tensor."""
    tensor: Tensor
    """The block, on any device."""
    offsets: tuple[int, ...]
    """Row and column of the whole tensor at which the block begins."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""


def write_blocks(path: Path, blocks: Sequence[Block]) -> tuple[list[dict[str, Any]], str]:
    """Write blocks into one file, and flush it to the disk.

    Returns:
        The file's entries for the index, and its SHA-256.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {}
    entries: list[dict[str, Any]] = []
    position = 0
    for block in blocks:
        size = block.tensor.numel() * block.tensor.element_size()
        key = block_key(block.name, block.offsets)
        dtype, sizes = DTYPES[block.tensor.dtype], list(block.tensor.shape)
        header[key] = {"dtype": dtype, "shape": sizes, "data_offsets": [position, position + size]}
        entry = {"name": block.name, "dtype": dtype, "shape": list(block.shape), "file": path.name}
        entries.append(entry | {"offsets": list(block.offsets), "sizes": sizes, "start": position})
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    with path.open("wb") as file:
        file.write(head)
        for data in _chunks(blocks):
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    starts = [entry["start"] + len(head) for entry in entries]
    return [entry | {"start": start} for entry, start in zip(entries, starts, strict=True)], (
        digest.hexdigest()
    )


def block_key(name: str, offsets: Sequence[int]) -> str:
    """Return a block's name in its file, as in ``tables/dat.embeddings.item/weight@0,16``."""
    return f"{name}@{','.join(map(str, offsets))}"


def _chunks(blocks: Sequence[Block]) -> Iterator["memoryview[int]"]:
    for block in blocks:
        for part in row_chunks(block.tensor):
            yield part.contiguous().cpu().flatten().view(torch.uint8).numpy().data


def row_chunks(tensor: Tensor) -> Sequence[Tensor]:
    """Return views of the tensor's rows, each of about ``CHUNK_BYTES`` and no more, or one row."""
    rows = tensor if tensor.dim() else tensor.reshape(1)
    chunks: Sequence[Tensor] = rows.split(rows_per_chunk(rows.shape, rows.element_size()))
    return chunks


def rows_per_chunk(shape: Sequence[int], item_bytes: int) -> int:
    """Return how many rows of a tensor of that shape go into ``CHUNK_BYTES``; at least 1."""
    return max(1, CHUNK_BYTES // max(1, item_bytes * math.prod(shape[1:])))
