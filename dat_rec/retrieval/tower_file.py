"""A program with large tables in, a .pt2 file out and back, without a table in memory.

The file is what ``torch.export.save`` writes, and ``torch.export.load`` reads: a zip archive with a
record of raw numbers for each parameter. torch copies a table into memory to write it, and another
time to read it. Here the program is written with tables of one number each, repeated by strides of
0, and then copied, with the tables' own records and strides in their place. To read the file, the
same is done the other way round, and the tables are mapped into memory.
"""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from dat_rec.data.dense import AnyColumn
from dat_rec.errors import UserError
from dat_rec.retrieval.divided import DividedRows
from dat_rec.retrieval.query_encoder import to_inputs

CONFIG = "data/weights/model_weights_config.json"
WEIGHTS = "data/weights/"
ALIGNMENT = 64
"""Bytes: where the record of a table may begin, so that it can be mapped."""
LOCAL_HEADER, ZIP64_EXTRA, PADDING_ID = 30, 20, 0x4246
"""Of the zip format: bytes before a record's name, bytes of large sizes, the id of padding that
PyTorch uses."""


def write_tower(
    program: ExportedProgram,
    tables: Mapping[str, DividedRows],
    blocks: Callable[[str, DividedRows], Iterable[Tensor]],
    path: Path,
) -> None:
    """Write a program whose tables come block by block.

    Args:
        program: what its tables hold does not matter; it is changed.
        tables: by the parameters' names.
        blocks: gives the (rows, D) float32 blocks of a table, in turn.
        path: the file to write.
    """
    shapes = {name: program.state_dict[name].shape for name in tables}
    for name, shape in shapes.items():
        program.state_dict[name] = nn.Parameter(torch.zeros(1).expand(shape), requires_grad=False)
    small = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, small)
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(path, "w") as target:
        config = _config(source)
        records = {}
        for name, shape in shapes.items():
            _set_strides(config[name], [shape[1], 1])
            records[config[name]["path_name"]] = name
        for info in source.infolist():
            table = records.get(info.filename.partition(WEIGHTS)[2])
            with _record(target, info.filename) as record:
                if table is not None:
                    for block in blocks(table, tables[table]):
                        record.write(block.contiguous().numpy().data.cast("B"))
                elif info.filename.endswith(CONFIG):
                    record.write(json.dumps({"config": config}).encode())
                else:
                    record.write(source.read(info))


def check_records(path: Path) -> None:
    """Read the file once more, and compare every record with its checksum.

    Raises:
        UserError: one differs.
    """
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise UserError(f"{path}: {bad} was not written as it should be: see to the disk")


class QueryTower:
    """A file that ``write_tower`` wrote, loaded; its tables stay on the disk, mapped into memory.

    Pages of the file that are read count as memory of this process, and are given back when memory
    is short; processes of one host share them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        small = io.BytesIO()
        mapped: dict[str, Tensor] = {}
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(small, "w") as target:
            config = _config(source)
            tables = {_path_name(meta): name for name, meta in config.items() if _is_table(name)}
            for info in source.infolist():
                name = tables.get(info.filename.partition(WEIGHTS)[2], "")
                if name:
                    shape = [size["as_int"] for size in config[name]["tensor_meta"]["sizes"]]
                    mapped[name] = _map(path, info, shape)
                    _set_strides(config[name], [0, 0])
            for info in source.infolist():
                if info.filename.endswith(CONFIG):
                    content = json.dumps({"config": config}).encode()
                elif info.filename.partition(WEIGHTS)[2] in tables:
                    content = bytes(np.float32().itemsize)
                else:
                    content = source.read(info)
                target.writestr(info.filename, content)
        small.seek(0)
        program = torch.export.load(small)
        for name, weight in mapped.items():
            program.state_dict[name] = nn.Parameter(weight, requires_grad=False)
        self._module = program.module()

    def encode(self, columns: Mapping[str, AnyColumn]) -> NDArray[np.float32]:
        """(B, D) float32 unit vectors of the columns' B rows.

        Raises:
            UserError: a vector is not finite.
        """
        with torch.no_grad():
            vectors: Tensor = self._module(*to_inputs(columns))
        if not torch.isfinite(vectors).all():
            raise UserError(f"{self._path}: gives vectors that are not finite: train anew")
        return vectors.float().numpy()


def _is_table(name: str) -> bool:
    return name.startswith(("tables.", "augmented."))


def _path_name(meta: Mapping[str, Any]) -> str:
    return str(meta["path_name"])


def _config(archive: zipfile.ZipFile) -> dict[str, dict[str, Any]]:
    """Shape, strides and record of each parameter, by its name."""
    (name,) = (name for name in archive.namelist() if name.endswith(CONFIG))
    config: dict[str, dict[str, Any]] = json.loads(archive.read(name))["config"]
    return config


def _set_strides(meta: dict[str, Any], strides: list[int]) -> None:
    meta["tensor_meta"]["strides"] = [{"as_int": stride} for stride in strides]


@contextmanager
def _record(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """Open a record for writing, whose content begins at a multiple of ``ALIGNMENT``."""
    info = zipfile.ZipInfo(name)
    before = archive.start_dir + LOCAL_HEADER + len(name.encode()) + ZIP64_EXTRA + 4
    padding = -before % ALIGNMENT
    info.extra = struct.pack("<HH", PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as record:
        yield record


def _map(path: Path, info: zipfile.ZipInfo, shape: list[int]) -> Tensor:
    """Map the numbers of a record, which is not compressed, into memory."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[26:])
    begin = info.header_offset + LOCAL_HEADER + name + extra
    # Copied when it is written to, which nobody does: torch wants an array that could be.
    return torch.from_numpy(np.memmap(path, np.float32, "c", begin, tuple(shape)))
