"""Item vectors in, ``index.faiss`` out and back: faiss's exact inner-product index (IndexFlatIP).

The file is a header and then the vectors, as they are: they are appended block by block, and mapped
into memory to be searched. faiss would hold all of them, and once more while it writes. Where an
export has no such file, the same is made of its vectors in memory.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

INDEX_NAME = "index.faiss"
TOTAL = slice(8, 16)
"""Bytes of the header that hold the number of vectors; its last eight hold that of all numbers."""


def write_index(blocks: Iterable[NDArray[np.float32]], items: int, dim: int, path: Path) -> None:
    """Write the file that ``faiss.write_index`` would write.

    Args:
        blocks: (rows, D) vectors, block after block in the order of item_index.
        items: N, number of all of them.
        dim: D.
        path: the file to write.
    """
    header = bytearray(faiss.serialize_index(faiss.IndexFlatIP(dim)).data)
    header[TOTAL] = struct.pack("<q", items)
    header[-8:] = struct.pack("<Q", items * dim)
    with path.open("wb") as file:
        file.write(header)
        for block_BD in blocks:
            file.write(np.ascontiguousarray(block_BD).data.cast("B"))


def index_in_memory(
    blocks: Iterable[NDArray[np.float32]], items: int, dim: int
) -> tuple[faiss.Index, NDArray[np.float32]]:
    """What ``read_index`` returns of a file of ``write_index``, without one on a disk.

    The index and the vectors share 4 · N · D bytes, which are freed with the last of them.

    Args:
        blocks: as of ``write_index``, and all that follows.
        items: N.
        dim: D.
    """
    file = os.memfd_create(INDEX_NAME)
    try:
        path = Path(f"/proc/self/fd/{file}")
        write_index(blocks, items, dim, path)
        return read_index(path)
    finally:
        os.close(file)


def read_index(path: Path) -> tuple[faiss.Index, NDArray[np.float32]]:
    """Return the index, and its (N, D) vectors; both are mapped from the file."""
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    shape = (index.ntotal, index.d)
    begin = path.stat().st_size - 4 * shape[0] * shape[1]
    # A plain array: each slice of a memmap would look for the file that it is of.
    return index, np.memmap(path, np.float32, "c", begin, shape).view(np.ndarray)
