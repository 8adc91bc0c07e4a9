"""Tensors in blocks, written and read by any cuts: against slicing, and the safetensors library."""

import hashlib
import json
import mmap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from safetensors.torch import load_file
from torch import Tensor

from dat_rec.checkpoint import write_tensors
from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.checkpoint.write_tensors import Block, write_blocks
from dat_rec.errors import UserError
from tests.distributed.ranks import run_ranks


def numbers(shape: tuple[int, ...], dtype: torch.dtype, rng: Generator) -> Tensor:
    """Any bit pattern that is no NaN, so that every number says where it comes from."""
    if dtype == torch.int64:
        return torch.from_numpy(rng.integers(-(2**62), 2**62, shape))
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def cuts(size: int, rng: Generator) -> list[int]:
    """0, some numbers between, ``size``; two may be the same."""
    return [0, *sorted(rng.integers(0, size + 1, rng.integers(0, 4)).tolist()), size]


def blocks_of(name: str, whole: Tensor, rng: Generator) -> list[Block]:
    """The tensor cut at random, by rows and, where it has them, by columns."""
    if not whole.dim():
        return [Block(name, whole, (), ())]
    found = []
    for start, stop in pairwise(cuts(len(whole), rng)):
        if whole.dim() == 1:
            found.append(Block(name, whole[start:stop], (start,), tuple(whole.shape)))
            continue
        for left, right in pairwise(cuts(whole.shape[1], rng)):
            part = whole[start:stop, left:right]
            found.append(Block(name, part, (start, left), tuple(whole.shape)))
    # An empty block that begins where a full one does would have its name.
    full = {block.offsets for block in found if block.tensor.numel()}
    by_name = {block.offsets: block for block in found if not block.tensor.numel()}
    empty = [block for place, block in by_name.items() if place not in full]
    return [block for block in found if block.tensor.numel()] + empty


def write(folder: Path, blocks: list[Block], files: int, rng: Generator) -> list[dict[str, Any]]:
    """The blocks over several files in any order; the index, as it comes out of JSON."""
    entries: list[dict[str, Any]] = []
    owner = rng.integers(0, files, len(blocks))
    for number in range(files):
        mine = [block for block, file in zip(blocks, owner, strict=True) if file == number]
        rng.shuffle(mine)  # type: ignore[arg-type]
        path = folder / f"rank-{number}.safetensors"
        found, digest = write_blocks(path, mine)
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        entries += found
    result: list[dict[str, Any]] = json.loads(json.dumps(entries))
    return result


WHOLES: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "table": ((61, 12), torch.float32),
    "half": ((40, 8), torch.float16),
    "double": ((17, 3), torch.float64),
    "sums": ((61,), torch.float32),
    "counts": ((9, 5), torch.int64),
    "step": ((), torch.float32),
    "number": ((), torch.int64),
    "no rows": ((0, 4), torch.float32),
    "no columns": ((4, 0), torch.float32),
    "one": ((1, 1), torch.float16),
}


@pytest.mark.parametrize("chunk_bytes", [1, 100, 2**24])
@pytest.mark.parametrize("seed", range(8))
def test_any_part_comes_back_as_it_was_cut_from_the_whole(
    seed: int, chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_tensors, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(seed)
    wholes = {name: numbers(*kind, rng) for name, kind in WHOLES.items()}
    blocks = [b for name, whole in wholes.items() for b in blocks_of(name, whole, rng)]
    entries = write(tmp_path, blocks, int(rng.integers(1, 4)), rng)

    by_library = {path.name: load_file(path) for path in tmp_path.iterdir()}
    for block in blocks:
        key = f"{block.name}@{','.join(map(str, block.offsets))}"
        (held,) = [file[key] for file in by_library.values() if key in file]
        assert held.dtype == block.tensor.dtype
        assert torch.equal(held, block.tensor)

    files = TensorFiles(tmp_path, entries)
    for name, whole in wholes.items():
        assert files.kind(name) == (whole.dtype, tuple(whole.shape))
        read = files.read(name, whole.shape)
        assert read.dtype == whole.dtype
        assert torch.equal(read, whole)
        begin = [int(rng.integers(0, size + 1)) for size in whole.shape]
        end = [int(rng.integers(a, size + 1)) for a, size in zip(begin, whole.shape, strict=True)]
        part = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
        target = torch.full_like(whole[part], -7)
        files.read_into(name, target, begin, whole.shape)
        assert torch.equal(target, whole[part])


def test_numbers_are_read_into_another_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    half = numbers((20, 4), torch.float16, rng)
    files = TensorFiles(tmp_path, write(tmp_path, blocks_of("half", half, rng), 2, rng))
    target = torch.empty(5, 2)
    files.read_into("half", target, (3, 1), (20, 4))
    assert torch.equal(target, half[3:8, 1:3].float())


@pytest.mark.parametrize("chunk_bytes", [1, 70, 2**24])
def test_chunks_hold_every_number_of_the_rows_once(
    chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_tensors, "CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(4)
    whole = numbers((50, 6), torch.float32, rng)
    files = TensorFiles(tmp_path, write(tmp_path, blocks_of("t", whole, rng), 3, rng))
    for start, stop in ((0, 50), (7, 33), (49, 50), (20, 20)):
        times = torch.zeros(50, 6)
        for (row, column), chunk in files.chunks("t", start, stop):
            assert chunk.numel() * 4 <= max(chunk_bytes, 6 * 4)
            part = slice(row, row + len(chunk)), slice(column, column + chunk.shape[1])
            assert torch.equal(chunk, whole[part])
            times[part] += 1
        expected = torch.zeros(50, 6)
        expected[start:stop] = 1
        assert torch.equal(times, expected)


@pytest.fixture
def index(tmp_path: Path) -> list[dict[str, Any]]:
    """A table in four blocks of two files, (4, 6)."""
    whole = torch.arange(24.0).reshape(4, 6)
    parts = [((0, 0), whole[:2, :4]), ((2, 0), whole[2:, :4]), ((0, 4), whole[:2, 4:])]
    entries, _ = write_blocks(
        tmp_path / "a.safetensors", [Block("t", part, place, (4, 6)) for place, part in parts]
    )
    more, _ = write_blocks(tmp_path / "b.safetensors", [Block("t", whole[2:, 4:], (2, 4), (4, 6))])
    return [*entries, *more]


def test_a_missing_block_is_a_gap(index: list[dict[str, Any]], tmp_path: Path) -> None:
    assert torch.equal(
        TensorFiles(tmp_path, index).read("t", (4, 6)), torch.arange(24.0).reshape(4, 6)
    )
    for number in range(4):
        rest = index[:number] + index[number + 1 :]
        with pytest.raises(UserError, match="t: its blocks leave gaps, or overlap"):
            TensorFiles(tmp_path, rest)


def test_blocks_that_overlap_do_not_make_up_for_a_gap(
    index: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The second block again, in place of the first, which is as large."""
    again, _ = write_blocks(
        tmp_path / "c.safetensors", [Block("t", torch.zeros(2, 4), (1, 0), (4, 6))]
    )
    with pytest.raises(UserError, match="t: its blocks leave gaps, or overlap"):
        TensorFiles(tmp_path, [*again, *index[1:]])
    with pytest.raises(UserError, match="t: its blocks leave gaps, or overlap"):
        TensorFiles(tmp_path, [index[1], *index[1:]])


def test_another_name_or_shape_is_refused(index: list[dict[str, Any]], tmp_path: Path) -> None:
    files = TensorFiles(tmp_path, index)
    with pytest.raises(UserError, match="holds no u"):
        files.read("u", (4, 6))
    for shape in ((6, 4), (4,), (24,), ()):
        with pytest.raises(UserError, match=r"t is \[4, 6\], and not "):
            files.read("t", shape)


MEGABYTE = 2**20


def growth(folder: str, chunk_bytes: int) -> tuple[float, float]:
    """By how many MB the process's peak memory grows with 200 MB.

    While it writes them and reads them back, and then while it reads half of the columns too.
    """
    write_tensors.CHUNK_BYTES = chunk_bytes
    block = Block("t", torch.ones(200 * MEGABYTE // 256, 64), (0, 0), (200 * MEGABYTE // 256, 64))
    before = peak()
    entries, _ = write_blocks(Path(folder) / "x.safetensors", [block])
    files = TensorFiles(Path(folder), entries)
    files.read_into("t", block.tensor, (0, 0), block.shape)
    whole = peak()
    files.read_into("t", block.tensor[:, :32], (0, 0), block.shape)
    return (whole - before) / MEGABYTE, (peak() - before) / MEGABYTE


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_writing_and_reading_hold_a_chunk_and_not_the_block(tmp_path: Path) -> None:
    (grown,) = run_ranks(growth, 1, str(tmp_path), write_tensors.CHUNK_BYTES)
    assert max(grown) < 64
    # The same with a chunk as large as the block: what is measured is what is held.
    (grown,) = run_ranks(growth, 1, str(tmp_path), 2**30)
    assert grown[0] < 64
    assert grown[1] > 150


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_that_lie_in_one_piece_are_mapped(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = numbers((61, 12), dtype, np.random.default_rng(0))
    cut = {"rows": [(0, 20, 0, 12), (20, 61, 0, 12)], "columns": [(0, 61, 0, 5), (0, 61, 5, 12)]}
    blocks = [
        Block(name, whole[first:last, left:right], (first, left), (61, 12))
        for name, parts in cut.items()
        for first, last, left, right in parts
    ]
    files = TensorFiles(tmp_path, write_blocks(tmp_path / "x.safetensors", blocks)[0])
    for first, count in ((0, 20), (25, 36), (60, 1)):
        found = files.map_rows("rows", first, count, (61, 12))
        assert found is not None
        assert found.rows.dtype == dtype
        assert torch.equal(found.rows, whole[first : first + count])
        found.file.madvise(mmap.MADV_DONTNEED)
        assert torch.equal(found.rows, whole[first : first + count])
    found.rows.zero_()  # in this process alone
    assert torch.equal(files.read("rows", (61, 12)), whole)
    assert files.map_rows("rows", 15, 10, (61, 12)) is None
    assert files.map_rows("rows", 15, 0, (61, 12)) is None
    assert files.map_rows("columns", 0, 61, (61, 12)) is None
    with pytest.raises(UserError, match=r"rows is \[61, 12\], and not \[61, 13\]"):
        files.map_rows("rows", 0, 1, (61, 13))
