"""A dataset's example files in, what they hold out: row groups, their rows and their ids.

The files' metadata are asked before a run takes its folder, and files that they betray are refused.
Ranks may divide the question among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.columns import BadIds, read_columns
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Schema
from dat_rec.data.stream.reader_options import OPTION_CURE
from dat_rec.data.stream.row_groups import ExampleFiles, RowGroup, index_feature, new_pairs
from dat_rec.data.stream.statistics import suspect_groups
from dat_rec.data.stream.weights import read_weights
from dat_rec.errors import UserError
from dat_rec.storage.address import Location


@dataclass(frozen=True)
class Survey:
    """What some of a dataset's example files hold."""

    groups: tuple[RowGroup, ...]
    rows: int
    """Number of rows in them, repeats included."""
    ids: int
    """Number of ids in them, of all features."""
    counts: NDArray[np.int64] | None
    """(trained items,) how often each item is a positive, in the rows that are no repeats where
    those are left out; None: as often as its ``train_count`` says."""


def survey(
    dataset: Dataset,
    policy: Literal["refuse", "unknown"],
    *,
    skip_repeats: bool,
    part: int = 0,
    parts: int = 1,
) -> Survey:
    """Ask a part of the example files what they hold, and refuse what betrays them.

    Row groups that the metadata make suspect are read, so that the message names the very value.
    To leave out repeats, two columns of each are; to count items, one, where not every training
    interaction is an example.

    Args:
        dataset: a prepared dataset.
        policy: what becomes of ids outside their table.
        skip_repeats: whether pairs that the user had before are left out.
        part: which part of the files, 0 ≤ part < parts.
        parts: into how many parts they are divided; of several, ``join_surveys`` makes one.

    Raises:
        UserError: a file cannot be read, has not the rows that the schema tells, lacks a column,
            or holds an id that is refused.
    """
    schema, files = dataset.schema, dataset.schema.example_files
    opened = ExampleFiles()
    groups: list[RowGroup] = []
    rows = ids = 0
    for file in files[part * len(files) // parts : (part + 1) * len(files) // parts]:
        path = dataset.folder / file.path
        metadata = opened.metadata(path)
        if metadata.num_rows != file.rows:
            raise UserError(
                f"{path}: {metadata.num_rows} rows, schema.json says {file.rows}: "
                "prepare the dataset anew"
            )
        _check_file(opened, path, schema, policy)
        rows += file.rows
        for number in range(metadata.num_row_groups):
            groups.append(RowGroup(path, number, metadata.row_group(number).num_rows))
            ids += _ids(metadata.row_group(number), {feature.name for feature in schema.features})
    counts = None
    if skip_repeats or schema.past:
        groups, counts = _counted(opened, groups, schema.trained_items, skip_repeats=skip_repeats)
    return Survey(tuple(groups), rows, ids, counts)


def join_surveys(parts: Sequence[Survey]) -> Survey:
    """What all files hold, from what each part of them does, in order."""
    counts = [part.counts for part in parts if part.counts is not None]
    return Survey(
        tuple(group for part in parts for group in part.groups),
        sum(part.rows for part in parts),
        sum(part.ids for part in parts),
        np.sum(counts, axis=0) if counts else None,
    )


def _ids(group: pq.RowGroupMetaData, names: set[str]) -> int:
    columns = (group.column(position) for position in range(group.num_columns))
    return sum(
        column.num_values for column in columns if column.path_in_schema.split(".")[0] in names
    )


def _check_file(
    opened: ExampleFiles,
    path: Location,
    schema: Schema,
    policy: Literal["refuse", "unknown"],
) -> None:
    """Refuse what a file's metadata betray: a malformed column, an id outside its table."""
    index = index_feature(schema.trained_items)
    features = (*schema.features, index)
    names = [feature.name for feature in features]
    may_lie_outside = names[:-1] if policy == "unknown" else []
    metadata = opened.metadata(path)
    empty = metadata.schema.to_arrow_schema().empty_table()
    read_columns(empty, features, str(path))
    if schema.example_weights is not None:
        read_weights(empty, str(path))
    for number in suspect_groups(metadata, features, nulls_only=may_lie_outside):
        group = RowGroup(path, number, 0)
        table = opened.read(group, names)
        read_columns(table, schema.features, str(group), BadIds(policy, OPTION_CURE))
        read_columns(table, [index], str(group))


def _counted(
    opened: ExampleFiles, groups: list[RowGroup], trained_items: int, *, skip_repeats: bool
) -> tuple[list[RowGroup], NDArray[np.int64]]:
    """Count the rows, or those that are no repeats: in each row group, and by item."""
    counts = np.zeros(trained_items, np.int64)
    left = []
    index = index_feature(trained_items)
    for group in groups:
        table = opened.read(group, [index.name, *(["repeat"] if skip_repeats else [])])
        items = read_columns(table, [index], str(group))[index.name].values
        if skip_repeats:
            items = items[new_pairs(table, group)]
        counts += np.bincount(items, minlength=trained_items)
        left.append(RowGroup(group.path, group.number, len(items)))
    return left, counts
