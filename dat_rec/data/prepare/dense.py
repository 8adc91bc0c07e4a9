"""Numbered tables with dense columns in, their features with mean and scale out.

Mean and scale are those of the trained users or items, each counted once. They are computed over
the rows in the file's order, so that threads do not change them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.dense import read_dense
from dat_rec.data.schema import DenseFeature, Side
from dat_rec.data.source import Attribute
from dat_rec.errors import UserError

ROUNDING = 1e-13
"""Of a mean: numbers that differ from it by no more are all the same."""


def is_dense(attribute: Attribute) -> bool:
    """Whether it is no embedding."""
    return attribute.kind == "dense"


def dense_names(attributes: Sequence[Attribute], side: Side) -> list[str]:
    """The names of one side's dense features, in order."""
    return [one.name for one in attributes if one.side == side and is_dense(one)]


def dense_features(
    attributes: Sequence[Attribute], side: Side, path: Path, trained: int
) -> tuple[DenseFeature, ...]:
    """One side's dense features.

    Args:
        attributes: those of all sides.
        side: whose.
        path: the Parquet file that holds their values.
        trained: number of its first rows that have a training interaction.

    Raises:
        UserError: values are so large that their squares are infinite.
    """
    return tuple(
        _scaled(one, path, trained) for one in attributes if one.side == side and is_dense(one)
    )


def _scaled(attribute: Attribute, path: Path, trained: int) -> DenseFeature:
    number = attribute.width is None
    raw = DenseFeature(
        name=attribute.name,
        side=attribute.side,
        kind="number" if number else "vector",
        width=attribute.width or 1,
        mean=0.0,
        scale=1.0,
    )
    mean = 0.0
    if number:
        mean = _mean(raw, path, trained, 0.0, 1)
    scale = _mean(raw, path, trained, mean, 2) ** 0.5
    if not isfinite(scale):
        raise UserError(
            f"--dense {attribute.name}: its values are too large for their squares to be summed: "
            "write them in another unit"
        )
    if scale <= ROUNDING * abs(mean):
        scale = 1.0
    return replace(raw, mean=mean, scale=scale)


def _mean(feature: DenseFeature, path: Path, trained: int, less: float, power: int) -> float:
    """The mean of (entry − less)^power over the entries of the trained rows; 0 without any."""
    total, count = 0.0, 0
    for values in _known(feature, path, trained):
        with np.errstate(over="ignore"):
            total += float(((values - less) ** power).sum())
        count += values.size
    return total / max(1, count)


def _known(feature: DenseFeature, path: Path, rows: int) -> Iterator[NDArray[np.float64]]:
    """The values of the first ``rows`` rows that have one, float64, row group by row group."""
    row = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            if row >= rows:
                return
            table = file.read_row_group(group, columns=[feature.name]).slice(0, rows - row)
            column = read_dense(table, [feature], str(path), row)[feature.name]
            yield column.values[column.lengths() > 0].astype(np.float64)
            row += file.metadata.row_group(group).num_rows
