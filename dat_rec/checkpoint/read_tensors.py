"""Read any rows and columns of tensors from safetensors files, by their index, whoever wrote them.

Nothing is unpickled, and no more than ``CHUNK_BYTES`` of memory is needed beside the tensors
themselves, or none at all where rows are mapped.
"""

import json
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.checkpoint.write_tensors import DTYPES, SUFFIX, block_key, rows_per_chunk
from dat_rec.errors import UserError


@dataclass(frozen=True)
class _Entry:
    """A block of a tensor in a file."""

    file: Path
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int
    """Byte of the file at which the block begins."""


class MappedRows(NamedTuple):
    """Rows of a tensor, mapped from a file."""

    rows: Tensor
    """(rows, …)"""
    file: mmap.mmap
    """The whole file."""


class TensorFiles:
    """Reads tensors from the files of a folder, by the entries of its index.

    Args:
        folder: with the files.
        entries: what ``write_blocks`` returned for all files.

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
        # The file's own header: these bytes may be another block's, or no tensor at all.
        key = block_key(name, offsets)
        held = self._header(file).get(key)
        if held != {"dtype": entry["dtype"], "shape": list(sizes), "bytes": [block.start, end]}:
            raise ValueError(f"{name}: {file} does not hold {key} at {block.start}")
        self._entries.setdefault(name, []).append(block)

    def _header(self, file: str) -> dict[str, Any]:
        if file not in self._headers:
            self._headers[file] = _read_header(self._folder / file)
        return self._headers[file]

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._kinds)

    def kind(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Return a tensor's dtype and shape.

        Raises:
            UserError: there is no tensor of this name.
        """
        if name not in self._kinds:
            raise UserError(f"{self._folder}: holds no {name}")
        return self._kinds[name]

    def read(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return a whole tensor, which must have ``shape``.

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
        """Fill ``target`` with the block of a tensor that begins at ``offsets``.

        Args:
            name: of the tensor.
            target: the block, on any device and of any floating dtype.
            offsets: row and column of the whole tensor at which the block begins.
            shape: the shape that the whole tensor must have.

        Raises:
            UserError: there is no such tensor, or it has another shape.
        """
        self._check_shape(name, shape)
        rows = (offsets[0], offsets[0] + len(target)) if offsets else (0, 1)
        if self._read_rows(name, target, offsets):
            return
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

    def map_rows(self, name: str, first: int, rows: int, shape: Sequence[int]) -> MappedRows | None:
        """Map whole rows of a tensor from its file, which the processes of a host share.

        Args:
            name: of the tensor.
            first: number of the first row.
            rows: how many, from there on.
            shape: the shape that the whole tensor must have.

        Returns:
            The rows, in the file's dtype; what is written to them stays in this process. None where
            they lie in several blocks, or where no number may begin in memory.

        Raises:
            UserError: there is no such tensor, or it has another shape.
        """
        dtype, there = self.kind(name)
        self._check_shape(name, shape)
        for entry in self._entries[name]:
            row = first - entry.offsets[0]
            inside = row >= 0 and row + rows <= entry.sizes[0] and entry.sizes[1:] == there[1:]
            if inside and rows and not entry.start % dtype.itemsize:
                row_bytes = math.prod(there[1:]) * dtype.itemsize
                begin, count = entry.start + row * row_bytes, rows * math.prod(there[1:])
                with entry.file.open("rb") as stream:
                    # A copy on write, which torch wants and nobody needs.
                    file = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
                found = torch.frombuffer(file, dtype=dtype, count=count, offset=begin)
                return MappedRows(found.view(rows, *there[1:]), file)
        return None

    def _check_shape(self, name: str, shape: Sequence[int]) -> None:
        if self.kind(name)[1] != tuple(shape):
            raise UserError(
                f"{self._folder}: {name} is {list(self.kind(name)[1])}, and not {list(shape)}"
            )

    def _read_rows(self, name: str, target: Tensor, offsets: Sequence[int]) -> bool:
        """Read whole rows straight into their place; False, and nothing done, where that fails.

        It saves the memory of a chunk, and a copy.
        """
        dtype, shape = self.kind(name)
        entries = self._entries[name]
        whole = [entry.sizes[1:] == shape[1:] for entry in entries]
        plain = target.device.type == "cpu" and target.is_contiguous() and target.dtype == dtype
        if not (plain and shape and all(whole) and target.shape[1:] == shape[1:]):
            return False
        numbers = target.detach().view(-1).view(torch.uint8).numpy()
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        for entry in entries:
            first, last = entry.offsets[0], entry.offsets[0] + entry.sizes[0]
            begin, end = max(first, offsets[0]), min(last, offsets[0] + len(target))
            if begin < end:
                place = slice((begin - offsets[0]) * row_bytes, (end - offsets[0]) * row_bytes)
                _read_exactly(entry.file, entry.start + (begin - first) * row_bytes, numbers[place])
        return True

    def chunks(self, name: str, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Yield rows ``start`` to ``stop`` of a tensor, some at a time, with their offsets.

        Rows come once for every block of columns.
        """
        dtype, shape = self.kind(name)
        for entry in self._entries[name]:
            if not shape:
                yield (), _read(entry.file, entry.start, (), dtype)
                continue
            first, size = entry.offsets[0], entry.sizes[0]
            step = rows_per_chunk(entry.sizes, dtype.itemsize)
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
    """Return whether every number of a tensor lies in exactly one block."""
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
    """Return dtype, shape and range of bytes of each tensor in a safetensors file, by name."""
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
    _read_exactly(file, start, np.frombuffer(data, np.uint8))
    if not data:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(tuple(shape))


def _read_exactly(file: Path, start: int, numbers: NDArray[np.uint8]) -> None:
    """Fill an array with the bytes of a file from ``start`` on."""
    with file.open("rb", buffering=0) as stream:
        stream.seek(start)
        done = 0
        # The system reads 2 GiB at a time at most.
        while done < len(numbers):
            read = stream.readinto(numbers[done:].data)
            if not read:
                raise UserError(f"{file}: ends too early")
            done += read
