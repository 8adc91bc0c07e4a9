"""A JSON file of tables in, an EmbeddingBagCollection of them out, on the meta device.

::

    {"batch_size": 2048,
     "tables": [{"name": "user", "rows": 82347275, "dim": 32, "pooling_factor": 1.0,
                 "features": 1, "fp16": false, "rule": "row_wise"}]}

``batch_size`` is that of each rank, and ``--batch-size`` goes before it. ``features`` are bags of
an example that look rows up in the table. ``rule`` are words as behind ``--pin TABLE=``.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.errors import UserError
from dat_rec.files import read_json
from dat_rec.table_rules import parse_rule

MOST_VALUES = 2**60
"""Of a table: more bytes than PyTorch can count."""
MOST_FEATURES = 10_000
MOST_POOLING = 1e6
MOST_BATCH = 2**31


@dataclass(frozen=True)
class Table:
    """One entry of the file."""

    name: str
    rows: int
    dim: int
    pooling_factor: float = 1.0
    features: int = 1
    fp16: bool = False
    rule: str | None = None

    def feature_names(self) -> list[str]:
        """Of its bags."""
        return [f"{self.name}@{number}" for number in range(self.features)]


@dataclass(frozen=True)
class TableFile:
    """A whole file."""

    path: Path
    tables: tuple[Table, ...]
    batch_size: int | None

    def model(self, fp16: Sequence[str]) -> nn.Module:
        """The tables; in float16 those that a name or pattern of ``fp16`` fits, or the file says.

        Raises:
            UserError: a pattern fits no table.
        """
        names = [table.name for table in self.tables]
        for pattern in fp16:
            if not fnmatch.filter(names, pattern):
                raise UserError(
                    f"--fp16-tables {pattern}: no such table: there are {', '.join(names)}"
                )
        configs = [
            EmbeddingBagConfig(
                name=table.name,
                embedding_dim=table.dim,
                num_embeddings=table.rows,
                feature_names=table.feature_names(),
                data_type=DataType.FP16
                if table.fp16 or any(fnmatch.fnmatchcase(table.name, one) for one in fp16)
                else DataType.FP32,
            )
            for table in self.tables
        ]
        meta = torch.device("meta")
        return nn.ModuleDict({"tables": EmbeddingBagCollection(tables=configs, device=meta)})

    def pooling_factors(self) -> dict[str, float]:
        """By feature."""
        return {
            feature: table.pooling_factor
            for table in self.tables
            for feature in table.feature_names()
        }

    def pins(self) -> tuple[str, ...]:
        """The tables' rules."""
        return tuple(f"{table.name}={table.rule}" for table in self.tables if table.rule)


def read_tables(path: Path) -> TableFile:
    """The tables that a file describes.

    Raises:
        UserError: names the file, the table, the field and its cure.
    """
    value = read_json(path, "the tables")
    entries = value.get("tables") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f'{path}: no tables: write {{"tables": [{{"name": …, "rows": …, …}}]}}')
    if unknown := sorted(set(value) - {"tables", "batch_size"}):
        raise UserError(f"{path}: unknown field {unknown[0]!r}: there are tables, batch_size")
    batch = value.get("batch_size")
    if batch is not None and (type(batch) is not int or not 1 <= batch <= MOST_BATCH):
        raise UserError(f"{path}: batch_size is {batch!r}: it must be an integer above 0")
    tables = tuple(_table(path, number, entry) for number, entry in enumerate(entries))
    names = [table.name for table in tables]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: table {twice[0]!r} stands there twice: rename one")
    return TableFile(path, tables, batch)


def _table(path: Path, number: int, entry: Any) -> Table:
    where = f"{path}: table {number}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} is no JSON object: write name, rows and dim")
    known = Table.__dataclass_fields__
    if unknown := [name for name in entry if name not in known]:
        raise UserError(f"{where}: unknown field {unknown[0]!r}: there are {', '.join(known)}")
    if missing := [name for name in ("name", "rows", "dim") if name not in entry]:
        raise UserError(f"{where}: {missing[0]} is missing: add it")
    name = entry["name"]
    if type(name) is not str or not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
        raise UserError(f"{where}: name is {name!r}: it must be letters, digits, _ and -")
    where = f"{path}: table {name}"
    for field in ("rows", "dim", "features"):
        content = entry.get(field, 1)
        if type(content) is not int or content < 1:
            raise UserError(f"{where}: {field} is {content!r}: it must be an integer above 0")
    if entry["rows"] * entry["dim"] > MOST_VALUES:
        raise UserError(f"{where}: rows × dim is above 2^60: make it smaller")
    if entry.get("features", 1) > MOST_FEATURES:
        raise UserError(f"{where}: features is {entry['features']}: at most {MOST_FEATURES:,}")
    factor = entry.get("pooling_factor", 1.0)
    if type(factor) not in (int, float) or not 0 < factor <= MOST_POOLING:
        raise UserError(
            f"{where}: pooling_factor is {factor!r}: it must be a number above 0, at most "
            f"{MOST_POOLING:,.0f}"
        )
    if type(entry.get("fp16", False)) is not bool:
        raise UserError(f"{where}: fp16 is {entry['fp16']!r}: it must be true or false")
    rule = entry.get("rule")
    if rule is not None:
        if type(rule) is not str:
            raise UserError(f"{where}: rule is {rule!r}: it must be words as behind --pin TABLE=")
        try:
            parse_rule(f"{name}={rule}")
        except UserError as error:
            raise UserError(f"{where}: rule: {error}") from error
    return Table(**entry)
