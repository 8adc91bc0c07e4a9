"""Row groups in, examples in memory out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.columns import BadIds, Column, Ids, join_columns, read_columns
from dat_rec.data.schema import EXAMPLE_WEIGHT, Schema
from dat_rec.data.stream.row_groups import ExampleFiles, RowGroup, index_feature, new_pairs
from dat_rec.data.stream.weights import read_weights


@dataclass(frozen=True)
class Examples:
    """Examples in memory: R rows."""

    columns: dict[str, Column]
    """Each feature's column, in the schema's order."""
    item_index: Ids
    """(R,) catalogue row of each positive."""
    weight: NDArray[np.float32] | None = None
    """(R,) how much each counts in the loss; None: all alike."""

    def __len__(self) -> int:
        return len(self.item_index)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        """The examples ``rows``, in that order."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        weight = None if self.weight is None else self.weight[rows]
        return Examples(columns, self.item_index[rows], weight)

    @staticmethod
    def none(schema: Schema) -> "Examples":
        """No examples."""
        no_ids, no_bags = np.zeros(0, np.int64), np.zeros(1, np.int64)
        columns = {
            feature.name: Column(no_ids, no_bags if feature.multi_valued else None)
            for feature in schema.features
        }
        weight = None if schema.example_weights is None else np.zeros(0, np.float32)
        return Examples(columns, no_ids, weight)

    @staticmethod
    def join(parts: "Parts", order: NDArray[np.int64] | None = None) -> "Examples":
        """The rows of one or more parts.

        Args:
            parts: examples, of each the first row and the one after the last.
            order: of the result's rows, among those of all parts; None: as they come.
        """
        columns = {}
        for name in parts[0][0].columns:
            column = join_columns([(part.columns[name], i, j) for part, i, j in parts])
            columns[name] = column if order is None else column.take(order)
        index = np.concatenate([part.item_index[i:j] for part, i, j in parts])
        weights = [part.weight[i:j] for part, i, j in parts if part.weight is not None]
        joined = Examples(columns, index, np.concatenate(weights) if weights else None)
        if order is None:
            return joined
        weight = None if joined.weight is None else joined.weight[order]
        return Examples(columns, index[order], weight)


Parts = Sequence[tuple[Examples, int, int]]


def read_examples(
    files: ExampleFiles,
    group: RowGroup,
    start: int,
    stop: int,
    schema: Schema,
    bad_ids: BadIds,
    *,
    skip_repeats: bool,
) -> Examples:
    """Read some rows of a row group, which is decoded whole.

    Args:
        files: reads it.
        group: what to read.
        start: the first of the rows, of those to train on.
        stop: the one after the last.
        schema: names the features, and says how many items are trained.
        bad_ids: what becomes of ids outside their table. It is told of those in the rows, and in
            the repeats before each.
        skip_repeats: whether to leave out the pairs that the user had before.

    Raises:
        UserError: the file cannot be read, a column is missing or malformed, or it holds an id
            or a weight that is refused.
    """
    index = index_feature(schema.trained_items)
    names = [*(feature.name for feature in schema.features), index.name]
    weighted = schema.example_weights is not None
    names += [EXAMPLE_WEIGHT] if weighted else []
    table = files.read(group, [*names, "repeat"] if skip_repeats else names)
    first, last, kept = start, stop, None
    if skip_repeats:
        new = new_pairs(table, group)
        # So that the parts of a row group have together every row once, repeats included.
        first = int(new[start - 1]) + 1 if start else 0
        last = int(new[stop - 1]) + 1 if stop < len(new) else len(table)
        kept = new[start:stop] - first
    table = table.slice(first, last - first)
    where = str(group)
    columns = read_columns(table, schema.features, where, bad_ids, first_row=first, widen=False)
    # A row of items.parquet, not an embedding id: there is none that means unknown.
    found = read_columns(table, [index], where, first_row=first, widen=False)
    weight = read_weights(table, where, first) if weighted else None
    examples = Examples(columns, found[index.name].values, weight)
    return examples if kept is None else examples.take(kept)
