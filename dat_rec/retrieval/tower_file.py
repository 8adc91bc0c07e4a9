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
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from dat_rec.data.dense import AnyColumn
from dat_rec.errors import UserError
from dat_rec.retrieval.divided import DividedRows
from dat_rec.retrieval.run_program import DTYPES, Program, UnknownProgramError, tensor_of
from dat_rec.retrieval.table_forms import stored
from dat_rec.retrieval.tower_inputs import Inputs, row_inputs, to_inputs

CONFIG = "data/weights/model_weights_config.json"
WEIGHTS = "data/weights/"
MODEL = "models/model.json"
MODEL_ID = "model_id"
"""What the id is called, in whatever holds it, that vectors and towers of one model bear."""
Content = bytes | memoryview
Config = dict[str, dict[str, Any]]
"""Shape, strides and record of each parameter, by its name."""
WORD = 4
"""Bytes, which the difference of two tables is made of."""
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
    model_id: str = "",
) -> None:
    """Write a program whose tables come block by block.

    Args:
        program: what its tables hold does not matter; it is changed.
        tables: by the parameters' names.
        blocks: gives the (rows, D) float32 blocks of a table, in turn, of which the parameter's
            dtype says what is stored.
        path: the file to write.
        model_id: of the model that the program is of, a record of its own; empty: there is none.
    """
    shapes = {name: program.state_dict[name].shape for name in tables}
    dtypes = {name: program.state_dict[name].dtype for name in tables}
    for name, shape in shapes.items():
        number = torch.zeros(1, dtype=dtypes[name]).expand(shape)
        program.state_dict[name] = nn.Parameter(number, requires_grad=False)
    small = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, small, extra_files={MODEL_ID: model_id} if model_id else None)
    with zipfile.ZipFile(small) as source:
        config = _config(source)
        records = {}
        for name, shape in shapes.items():
            _set_strides(config[name], [shape[1], 1])
            records[config[name]["path_name"]] = name

        def stored_blocks(table: str) -> Iterator[Content]:
            for block in blocks(table, tables[table]):
                yield as_content(stored(block, dtypes[table], table).numpy())

        def contents() -> Iterator[tuple[str, Iterable[Content]]]:
            for info in source.infolist():
                table = records.get(info.filename.partition(WEIGHTS)[2])
                if table is not None:
                    yield info.filename, stored_blocks(table)
                elif info.filename.endswith(CONFIG):
                    yield info.filename, [json.dumps({"config": config}).encode()]
                else:
                    yield info.filename, [source.read(info)]

        write_records(path, contents())


def write_records(path: Path, records: Iterable[tuple[str, Iterable[Content]]]) -> None:
    """Write an archive.

    Args:
        path: the file to write.
        records: name and content of each, in their order; a content comes block by block.
    """
    with zipfile.ZipFile(path, "w") as target:
        for name, blocks in records:
            with _record(target, name) as record:
                for block in blocks:
                    record.write(block)


def as_content(block_BD: NDArray[Any]) -> Content:
    """A record's bytes that some of a table's rows make."""
    return np.ascontiguousarray(block_BD).data.cast("B")


class Records(NamedTuple):
    """An archive's records."""

    contents: dict[str, bytes]
    """By name, in the file's order; empty for a table."""
    tables: dict[str, NDArray[np.float32]]
    """(R, W) each, mapped from the file, by the parameters' names: the bytes of its rows, four in a
    word, whatever numbers they are."""


def read_records(path: Path) -> Records:
    """Read the records of a file of ``write_tower``, whose tables are in words."""
    contents: dict[str, bytes] = {}
    tables = {}
    with zipfile.ZipFile(path) as source:
        config = _config(source)
        names = _table_records(config)
        for info in source.infolist():
            table = names.get(info.filename.partition(WEIGHTS)[2])
            contents[info.filename] = b"" if table else source.read(info)
            if table:
                tables[table] = _map(path, info, config[table]).view(np.float32)
    return Records(contents, tables)


def in_words(path: Path) -> bool:
    """Whether each row of each table takes whole words, so that ``read_records`` can read it."""
    with zipfile.ZipFile(path) as source:
        config = _config(source)
    tables = [config[name] for name in _table_records(config).values()]
    return all(_dtype(meta).itemsize * _shape(meta)[1] % WORD == 0 for meta in tables)


def tables_of(contents: Mapping[str, bytes]) -> dict[str, str]:
    """The parameters' names of the records that are tables, by the records' names."""
    (config,) = (json.loads(text) for name, text in contents.items() if name.endswith(CONFIG))
    found = _table_records(config["config"])
    records = {name: found.get(name.partition(WEIGHTS)[2]) for name in contents}
    return {name: table for name, table in records.items() if table}


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

    Args:
        path: of the file.
        by_torch_export: let ``torch.export`` load the program, which imports PyTorch's compiler. It
            gives the same bits, and does so anyway where ``run_program`` does not know all of it.
        trusted: whether the file may be given to ``torch.export``, which unpickles what it holds.

    Raises:
        UserError: it would have to be, and may not.
    """

    def __init__(self, path: Path, *, by_torch_export: bool = False, trusted: bool = True) -> None:
        self._path = path
        with zipfile.ZipFile(path) as source:
            config = _config(source)
            self.model_id = _model_id(source)
            """Of the model; None in a file of an older release."""
            tables = _mapped_tables(path, source, config)
            module = None if by_torch_export else _by_operators(source, config, tables)
            if module is None and not trusted:
                raise UserError(
                    f"{path}: has operators that only torch.export can load, which runs what the "
                    "file says: such a tower is not served"
                )
            self._module = module or _by_torch_export(source, config, tables)

    def encode(self, columns: Mapping[str, AnyColumn]) -> NDArray[np.float32]:
        """(B, D) float32 unit vectors of the columns' B rows.

        Raises:
            UserError: a vector is not finite.
        """
        return self._encode(to_inputs(columns))

    def encode_row(self, columns: Mapping[str, AnyColumn], row: int) -> NDArray[np.float32]:
        """(1, D) float32 unit vector of one of the columns' rows; raises as ``encode``."""
        return self._encode(row_inputs(columns, row))

    def _encode(self, inputs: Inputs) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: Tensor = self._module(*inputs)
            vectors_BD: NDArray[np.float32] = vectors.float().numpy()
        if not np.isfinite(vectors_BD).all():
            raise UserError(f"{self._path}: gives vectors that are not finite: train anew")
        return vectors_BD


def _by_operators(
    source: zipfile.ZipFile, config: Config, tables: Mapping[str, Tensor]
) -> Program | None:
    """The program, with its tables as they are given; None where it has what is not known."""
    (name,) = (name for name in source.namelist() if name.endswith(CONFIG))
    folder = name.removesuffix(CONFIG)
    weights = dict(tables)
    try:
        for parameter in config.keys() - tables.keys():
            content = source.read(f"{folder}{WEIGHTS}{config[parameter]['path_name']}")
            weights[parameter] = tensor_of(config[parameter], content)
        return Program(source.read(folder + MODEL), weights)
    except UnknownProgramError:
        return None


def with_mapped_tables(program: ExportedProgram, path: Path) -> ExportedProgram:
    """A program of ``write_tower``, with the tables that are in the file, mapped as they are."""
    with zipfile.ZipFile(path) as source:
        tables = _mapped_tables(path, source, _config(source))
    for name, table in tables.items():
        program.state_dict[name] = nn.Parameter(table, requires_grad=False)
    return program


def _mapped_tables(path: Path, source: zipfile.ZipFile, config: Config) -> dict[str, Tensor]:
    """The tables by the parameters' names, mapped from the file."""
    infos = {info.filename.partition(WEIGHTS)[2]: info for info in source.infolist()}
    # Mapped so that they could be written to, which torch wants and nobody does.
    return {
        name: torch.from_numpy(_map(path, infos[record], config[name]))
        for record, name in _table_records(config).items()
    }


def _by_torch_export(
    source: zipfile.ZipFile, config: Config, tables: Mapping[str, Tensor]
) -> Callable[..., Any]:
    """The program as ``torch.export.load`` gives it, which would read the tables into memory."""
    records = _table_records(config)
    small = io.BytesIO()
    for name in tables:
        _set_strides(config[name], [0, 0])
    with zipfile.ZipFile(small, "w") as target:
        for info in source.infolist():
            if info.filename.endswith(CONFIG):
                content = json.dumps({"config": config}).encode()
            elif (record := info.filename.partition(WEIGHTS)[2]) in records:
                content = bytes(_dtype(config[records[record]]).itemsize)
            else:
                content = source.read(info)
            target.writestr(info.filename, content)
    small.seek(0)
    program = torch.export.load(small)
    for name, weight in tables.items():
        program.state_dict[name] = nn.Parameter(weight, requires_grad=False)
    module: Callable[..., Any] = program.module()
    return module


def _model_id(archive: zipfile.ZipFile) -> str | None:
    for name in archive.namelist():
        if name.endswith(f"extra/{MODEL_ID}"):
            return archive.read(name).decode()
    return None


def _table_records(config: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The names of the parameters that are tables, by the last part of their records' names."""
    begins = ("tables.", "augmented.")
    return {
        str(meta["path_name"]): name for name, meta in config.items() if name.startswith(begins)
    }


def _shape(meta: Mapping[str, Any]) -> list[int]:
    return [size["as_int"] for size in meta["tensor_meta"]["sizes"]]


def _config(archive: zipfile.ZipFile) -> Config:
    """Shape, strides and record of each parameter, by its name."""
    (name,) = (name for name in archive.namelist() if name.endswith(CONFIG))
    config: Config = json.loads(archive.read(name))["config"]
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


def _map(path: Path, info: zipfile.ZipInfo, meta: Mapping[str, Any]) -> NDArray[Any]:
    """Map the numbers of a table's record, which is not compressed, into memory."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[26:])
    begin = info.header_offset + LOCAL_HEADER + name + extra
    return np.memmap(path, _dtype(meta), "c", begin, tuple(_shape(meta)))


def _dtype(meta: Mapping[str, Any]) -> np.dtype[Any]:
    """The type of a table's numbers."""
    return np.dtype(str(DTYPES[meta["tensor_meta"]["dtype"]]).removeprefix("torch."))
