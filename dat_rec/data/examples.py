"""Row groups in, examples in memory out; files whose metadata betray them are refused first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.columns import BadIds, Column, concatenate_columns, read_columns
from dat_rec.data.reader_options import OPTION_CURE
from dat_rec.data.row_groups import RowGroup, index_feature, new_pairs, read_row_group
from dat_rec.data.schema import Schema
from dat_rec.data.statistics import suspect_groups


@dataclass(frozen=True)
class Examples:
    """Examples in memory: R rows."""

    columns: dict[str, Column]
    """Each feature's column, in the schema's order."""
    item_index: NDArray[np.int64]
    """(R,) catalogue row of each positive."""

    def __len__(self) -> int:
        return len(self.item_index)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """The examples ``rows``, in that order."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Examples(columns, self.item_index[rows])

    def slice(self, start: int, stop: int) -> "Examples":
        """The examples ``start`` to ``stop``, without a copy of the values."""
        columns = {name: column.slice(start, stop) for name, column in self.columns.items()}
        return Examples(columns, self.item_index[start:stop])

    @staticmethod
    def concatenate(parts: Sequence["Examples"]) -> "Examples":
        """All examples of one or more parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        columns = {
            name: concatenate_columns([part.columns[name] for part in parts])
            for name in parts[0].columns
        }
        return Examples(columns, np.concatenate([part.item_index for part in parts]))


def read_examples(
    group: RowGroup, schema: Schema, bad_ids: BadIds, *, skip_repeats: bool
) -> Examples:
    """Read one row group.

    Args:
        group: what to read.
        schema: names the features, and says how many items are trained.
        bad_ids: what becomes of ids outside their table.
        skip_repeats: whether to leave out the pairs that the user had before.

    Raises:
        UserError: the file cannot be read, a column is missing or malformed, or it holds an id
            that is refused.
    """
    index = index_feature(schema.trained_items)
    names = [*(feature.name for feature in schema.features), index.name]
    table = read_row_group(group, [*names, "repeat"] if skip_repeats else names)
    columns = read_columns(table, schema.features, str(group), bad_ids)
    # A row of items.parquet, not an embedding id: there is none that means unknown.
    item_index = read_columns(table, [index], str(group))[index.name].values
    examples = Examples(columns, item_index)
    return examples.take(new_pairs(table, group)) if skip_repeats else examples


def check_files(
    groups: Sequence[RowGroup], schema: Schema, policy: Literal["refuse", "unknown"]
) -> None:
    """Refuse what the files' metadata betray, before a run takes its folder.

    The row groups that they make suspect are read, so that the message names the very value.

    Args:
        groups: all row groups that will be read.
        schema: names the features, and says how many items are trained.
        policy: what becomes of ids outside their table.

    Raises:
        UserError: a column is missing or malformed, or holds an id that is refused.
    """
    index = index_feature(schema.trained_items)
    features = (*schema.features, index)
    names = [feature.name for feature in features]
    may_lie_outside = names[:-1] if policy == "unknown" else []
    for path in {group.path: None for group in groups}:
        metadata = pq.read_metadata(path)
        empty = metadata.schema.to_arrow_schema().empty_table()
        read_columns(empty, features, str(path))
        for number in suspect_groups(metadata, features, nulls_only=may_lie_outside):
            group = RowGroup(path, number, 0)
            table = read_row_group(group, names)
            read_columns(table, schema.features, str(group), BadIds(policy, OPTION_CURE))
            read_columns(table, [index], str(group))
