"""Blocks of named tensors in, safetensors files with an index out, and back by any other cut.

Each rank writes the blocks that it holds into a file of its own; the index says which rows and
columns of which tensor stand where. Reading goes by the index: any rows and columns, whoever
wrote them. Nothing here is unpickled, and no more than ``CHUNK_BYTES`` stand beside the
tensors themselves. The files open with the ``safetensors`` library too.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dat_rec.errors import UserError

CHUNK_BYTES = 2**24
DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""Those that occur, by their names in the format."""
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Block:
    """A part of a tensor: from ``offsets`` on, as large as ``tensor``."""

    name: str
    tensor: Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    """Of the whole tensor."""


def write_blocks(path: Path, blocks: Sequence[Block]) -> tuple[list[dict[str, Any]], str]:
    """Write one file, and flush it to the disk.

    Returns:
        Its entries for the index, and its SHA-256.

    Raises:
        OSError: it cannot be written.
    """
    header: dict[str, Any] = {}
    entries: list[dict[str, Any]] = []
    position = 0
    for block in blocks:
        size = block.tensor.numel() * block.tensor.element_size()
        key = _key(block.name, block.offsets)
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


def _key(name: str, offsets: Sequence[int]) -> str:
    """A block's name in its file."""
    return f"{name}@{','.join(map(str, offsets))}"


def _chunks(blocks: Sequence[Block]) -> Iterator["memoryview[int]"]:
    for block in blocks:
        for part in row_chunks(block.tensor):
            yield part.contiguous().cpu().flatten().view(torch.uint8).numpy().data


def row_chunks(tensor: Tensor) -> Sequence[Tensor]:
    """Views of some rows at a time, of ``CHUNK_BYTES`` each or a little less."""
    rows = tensor if tensor.dim() else tensor.reshape(1)
    chunks: Sequence[Tensor] = rows.split(_rows_a_chunk(rows.shape, rows.element_size()))
    return chunks


def _rows_a_chunk(shape: Sequence[int], item_bytes: int) -> int:
    return max(1, CHUNK_BYTES // max(1, item_bytes * math.prod(shape[1:])))


@dataclass(frozen=True)
class _Entry:
    """A block on the disk."""

    file: Path
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int
    """Byte of the file at which it begins."""


class TensorFiles:
    """Tensors of a folder, by the entries of its index.

    Args:
        folder: where the files are.
        entries: what ``write_blocks`` returned, of all files.

    Raises:
        UserError: the entries are malformed, contradict one another or the files, or leave gaps.
    """

    def __init__(self, folder: Path, entries: Any) -> None:
        self._folder = folder
        self._kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self._entries: dict[str, list[_Entry]] = {}
        self._headers: dict[str, dict[str, Any]] = {}
        try:
            if not isinstance(entries, list):
                raise ValueError(f"tensors: a list is wanted, not {entries!r:.40}")
            for entry in entries:
                self._add(entry)
            for name, blocks in self._entries.items():
                if not _fill(blocks, self._kinds[name][1]):
                    raise ValueError(f"{name}: its blocks leave gaps, or overlap")
        except KeyError as error:
            raise UserError(f"{folder}: its index is malformed (no field {error})") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{folder}: its index is malformed ({error})") from error

    def _add(self, entry: dict[str, Any]) -> None:
        name, file = entry["name"], entry["file"]
        shape, offsets, sizes = (_numbers(entry, key) for key in ("shape", "offsets", "sizes"))
        dtype = next((kind for kind, code in DTYPES.items() if code == entry["dtype"]), None)
        if dtype is None:
            raise ValueError(f"{name}: dtype {entry['dtype']!r} is none of {list(DTYPES.values())}")
        inside = len(offsets) == len(sizes) == len(shape) and all(
            offset >= 0 and size >= 0 and offset + size <= whole
            for offset, size, whole in zip(offsets, sizes, shape, strict=True)
        )
        if not inside:
            raise ValueError(
                f"{name}: offsets {list(offsets)} and sizes {list(sizes)} go beyond the shape "
                f"{list(shape)}"
            )
        if (known := self._kinds.setdefault(name, (dtype, shape))) != (dtype, shape):
            raise ValueError(f"{name}: dtype and shape are {known}, and {(dtype, shape)}")
        if Path(file).name != file or not file.endswith(SUFFIX):
            raise ValueError(f"{name}: file {file!r}: a name that ends with {SUFFIX} is wanted")
        block = _Entry(self._folder / file, offsets, sizes, entry["start"])
        end = block.start + math.prod(sizes) * dtype.itemsize
        # What the file says of itself: its bytes may be another block's, or no tensors at all.
        held = self._header(file).get(_key(name, offsets))
        if held != {"dtype": entry["dtype"], "shape": list(sizes), "bytes": [block.start, end]}:
            raise ValueError(f"{name}: {file} does not hold {_key(name, offsets)} at {block.start}")
        self._entries.setdefault(name, []).append(block)

    def _header(self, file: str) -> dict[str, Any]:
        if file not in self._headers:
            self._headers[file] = _read_header(self._folder / file)
        return self._headers[file]

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._kinds)

    def kind(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """A tensor's dtype and shape.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._kinds:
            raise UserError(f"{self._folder}: holds no {name}")
        return self._kinds[name]

    def read(self, name: str, shape: Sequence[int]) -> Tensor:
        """A whole tensor, which must have ``shape``.

        Raises:
            UserError: there is no such tensor, or it has another shape.
        """
        dtype, shape = self.kind(name)[0], tuple(shape)
        result = torch.empty(shape, dtype=dtype)
        self.read_into(name, result, (0,) * len(shape), shape)
        return result

    def read_into(
        self, name: str, target: Tensor, offsets: Sequence[int], shape: Sequence[int]
    ) -> None:
        """Fill ``target``, the part of tensor ``name`` that begins at ``offsets``.

        Args:
            name: the tensor's.
            target: on any device, of any floating dtype.
            offsets: its first row and column in the whole.
            shape: that the whole must have.

        Raises:
            UserError: there is no such tensor, or it has another shape.
        """
        if self.kind(name)[1] != tuple(shape):
            raise UserError(
                f"{self._folder}: {name} is {list(self.kind(name)[1])}, and not {list(shape)}"
            )
        rows = (offsets[0], offsets[0] + len(target)) if offsets else (0, 1)
        for first, chunk in self.chunks(name, *rows):
            if not first:
                target.copy_(chunk)
                continue
            begin = [max(a, b) for a, b in zip(first, offsets, strict=True)]
            end = [
                min(a + n, b + m)
                for a, n, b, m in zip(first, chunk.shape, offsets, target.shape, strict=True)
            ]
            if all(a < b for a, b in zip(begin, end, strict=True)):
                into = tuple(
                    slice(a - o, b - o) for a, b, o in zip(begin, end, offsets, strict=True)
                )
                out_of = tuple(
                    slice(a - o, b - o) for a, b, o in zip(begin, end, first, strict=True)
                )
                target[into] = chunk[out_of].to(target.device, target.dtype)

    def chunks(self, name: str, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Rows ``start`` to ``stop`` of a tensor, some at a time: where they begin, and they.

        Rows come once for every block of columns.
        """
        dtype, shape = self.kind(name)
        for entry in self._entries[name]:
            if not shape:
                yield (), _read(entry.file, entry.start, (), dtype)
                continue
            first, size = entry.offsets[0], entry.sizes[0]
            step = _rows_a_chunk(entry.sizes, dtype.itemsize)
            row_bytes = math.prod(entry.sizes[1:]) * dtype.itemsize
            for row in range(max(start, first), min(stop, first + size), step):
                rows = min(step, stop - row, first + size - row)
                data = _read(
                    entry.file,
                    entry.start + (row - first) * row_bytes,
                    (rows, *entry.sizes[1:]),
                    dtype,
                )
                yield (row, *entry.offsets[1:]), data


def _numbers(entry: dict[str, Any], key: str) -> tuple[int, ...]:
    numbers = tuple(entry[key])
    if any(type(number) is not int for number in numbers):
        raise ValueError(f"{entry['name']}: {key} {entry[key]!r}: integers are wanted")
    return numbers


def _fill(blocks: Sequence[_Entry], shape: Sequence[int]) -> bool:
    """Whether every number of a tensor lies in one block, and in no second one."""
    if sum(math.prod(block.sizes) for block in blocks) != math.prod(shape):
        return False
    full = [block for block in blocks if math.prod(block.sizes)]
    begins = np.array([block.offsets for block in full], np.int64)
    ends = begins + np.array([block.sizes for block in full], np.int64)
    return not any(
        ((begins[at] < ends[at + 1 :]) & (begins[at + 1 :] < ends[at])).all(axis=1).any()
        for at in range(len(full))
    )


def _read_header(file: Path) -> dict[str, Any]:
    """By name, dtype and shape of each tensor of a safetensors file, and which bytes it is."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        base = 8 + int.from_bytes(stream.read(8), "little")
        if base > size:
            raise ValueError(f"{file.name} is no safetensors file")
        header = json.loads(stream.read(base - 8))
    found = {}
    for name, value in header.items():
        begin, end = (base + number for number in value["data_offsets"])
        if end > size:
            raise ValueError(f"{name} goes beyond the end of {file.name}")
        found[name] = {"dtype": value["dtype"], "shape": value["shape"], "bytes": [begin, end]}
    return found


def _read(file: Path, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    # A plain read: memory that is mapped would count as this process's.
    data = bytearray(math.prod(shape) * dtype.itemsize)
    with file.open("rb") as stream:
        stream.seek(start)
        if stream.readinto(data) != len(data):
            raise UserError(f"{file}: ends too early")
    if not data:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(tuple(shape))
