"""A JSON file of tables in, an EmbeddingBagCollection of them out, on the meta device.

::

    {"batch_size": 2048,
     "tables": [{"name": "user", "rows": 82347275, "dim": 32, "pooling_factor": 1.0,
                 "features": 1, "fp16": false, "rule": "row_wise"}]}

``batch_size`` is that of each rank, and ``--batch-size`` goes before it. ``features`` are bags of
an example that look rows up in the table. ``rule`` are words as behind ``--pin TABLE=``.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from pydantic import StringConstraints
from torch import nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from dat_rec.errors import UserError
from dat_rec.files import STRICT, checked, read_json
from dat_rec.sharding_rules import parse_rule

MAXIMUM_VALUES = 2**60
"""Of a table: with more, PyTorch cannot count its bytes."""


@dataclass(frozen=True)
class Table:
    """One entry of the file."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9_-]*$")]
    rows: Annotated[int, Ge(1)]
    dim: Annotated[int, Ge(1)]
    pooling_factor: Annotated[float, Gt(0), Le(1e6)] = 1.0
    features: Annotated[int, Ge(1), Le(10_000)] = 1
    fp16: bool = False
    rule: str | None = None

    __pydantic_config__ = STRICT

    def feature_names(self) -> list[str]:
        """Names of the features that look rows up in the table, one for each bag."""
        return [f"{self.name}@{number}" for number in range(self.features)]


@dataclass(frozen=True)
class Content:
    """The JSON of a file."""

    tables: tuple[Table, ...]
    batch_size: Annotated[int, Ge(1), Le(2**31)] | None = None

    __pydantic_config__ = STRICT


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
        """Mean number of values in a bag, by feature."""
        return {
            feature: table.pooling_factor
            for table in self.tables
            for feature in table.feature_names()
        }

    def pins(self) -> tuple[str, ...]:
        """The tables' rules, each as behind ``--pin``."""
        return tuple(f"{table.name}={table.rule}" for table in self.tables if table.rule)


def read_tables(path: Path) -> TableFile:
    """The tables that a file describes.

    Raises:
        UserError: names the file, the field and its cure.
    """
    value = read_json(path, "the tables")
    if not isinstance(value, dict) or not value.get("tables"):
        raise UserError(f'{path}: no tables: write {{"tables": [{{"name": …, "rows": …, …}}]}}')
    content = checked(Content, value, str(path))
    names = [table.name for table in content.tables]
    for number, table in enumerate(content.tables):
        where = f"{path}: tables[{number}]"
        if names.index(table.name) < number:
            raise UserError(f"{where}: {table.name!r} stands there twice: rename one")
        if table.rows * table.dim > MAXIMUM_VALUES:
            raise UserError(f"{where}: rows × dim is above 2^60: make it smaller")
        if table.rule is not None:
            try:
                parse_rule(f"{table.name}={table.rule}")
            except UserError as error:
                raise UserError(f"{where}: rule: {error}") from error
    return TableFile(path, content.tables, content.batch_size)
