"""A dataset in, an export's tables out that lists are restricted by: items, and who had which."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.columns import BadIds, Column, read_columns
from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import row_values
from dat_rec.data.schema import ANEW, ITEM, USER, Feature
from dat_rec.data.seen_pairs import pairs_by_user
from dat_rec.dist.agree import together
from dat_rec.errors import UserError
from dat_rec.retrieval.compact import parquet_options
from dat_rec.retrieval.export_parts import list_of, parts_of
from dat_rec.retrieval.exported import ITEMS, PART_ROWS, SEEN_PARTS, part_name
from dat_rec.retrieval.feature_rows import RowGroups
from dat_rec.storage.read import exists

ITEM_COLUMNS = ("item_id", "title", "category_name", "train_count")
PAIRS = 2**20
"""Number of training pairs that are read at a time."""


def write_items(dataset: Dataset, folder: Path, *, compact: bool = False) -> None:
    """Write items.parquet, row group by row group.

    Behind ``ITEM_COLUMNS`` stands each item feature that has a vocabulary, as the text that a
    number stands for or a list of such, null where it is unknown; then each dense number.

    Raises:
        UserError: the dataset's items or vocabularies cannot be read.
    """
    features = {
        feature: values
        for feature in dataset.schema.side("item")
        if (values := _vocabulary(dataset, feature)) is not None
    }
    numbers = [one.name for one in dataset.schema.dense_side("item") if one.kind == "number"]
    names = [*ITEM_COLUMNS, *(feature.name for feature in features), *numbers]
    source = RowGroups(dataset.folder / ITEMS, names, dataset.schema.items)
    none = _readable(source.read_rows(0, 0), features, dataset)
    options = parquet_options(none.schema) if compact else {}
    with pq.ParquetWriter(folder / ITEMS, none.schema, **options) as writer:
        for group in range(len(source.bounds) - 1):
            writer.write_table(_readable(source.read(group), features, dataset))


def write_seen(dataset: Dataset, folder: Path, *, compact: bool = False) -> None:
    """Write which items each user had in training, in parts. Collective.

    A rank holds the pairs of one part at a time.

    Raises:
        UserError: the dataset's pairs cannot be read, or name an item that is not there.
    """
    rank, ranks = rank_and_ranks()
    count = dataset.schema.users
    with together():
        ids = RowGroups(dataset.folder / "users.parquet", ["user_id"], count)
        pairs = pairs_by_user(dataset, PAIRS)
        waiting = np.zeros((2, 0), np.int32)
        for number in range(rank, parts_of(count), ranks):
            start, stop = number * PART_ROWS, min(count, (number + 1) * PART_ROWS)
            found = _until(pairs, waiting, start, stop)
            ends = np.searchsorted(found[0], np.arange(start, stop + 1))
            item = pa.array(_checked(found[1, ends[0] : ends[-1]], dataset))
            lists = pa.LargeListArray.from_arrays(ends - ends[0], item, type=list_of(item.type))
            user_ids = ids.read_rows(start, stop).column("user_id").combine_chunks()
            table = pa.table([user_ids, lists], ["user_id", "item_index"])
            options = parquet_options(table.schema) if compact else {}
            pq.write_table(table, folder / part_name(SEEN_PARTS, number), **options)
            waiting = found[:, ends[-1] :]


def _vocabulary(dataset: Dataset, feature: Feature) -> pa.Array | None:
    """(rows,) the text of each of a feature's numbers; None where there is no such text."""
    path = dataset.folder / "vocabularies" / f"{feature.table}.parquet"
    if feature.table in (USER, ITEM) or not exists(path):
        return None
    values = row_values(dataset.folder, feature.table, ANEW)
    if len(values) != feature.rows:
        raise UserError(
            f"{path}: {len(values)} rows, schema.json says {feature.rows} of table "
            f"{feature.table!r}: {ANEW}"
        )
    return values


def _readable(table: pa.Table, features: Mapping[Feature, pa.Array], dataset: Dataset) -> pa.Table:
    """The table with texts in place of the features' numbers."""
    bad_ids = BadIds(dataset.bad_ids)
    columns = read_columns(table, list(features), str(dataset.folder / ITEMS), bad_ids)
    for feature, values in features.items():
        column: Column = columns[feature.name]
        texts = values.take(pa.array(column.values))
        if column.offsets is not None:
            kind = list_of(texts.type)
            texts = pa.LargeListArray.from_arrays(column.offsets, texts, type=kind)
        place = table.column_names.index(feature.name)
        table = table.set_column(place, feature.name, texts)
    return table


def _until(
    pairs: Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]],
    waiting: NDArray[np.int32],
    start: int,
    stop: int,
) -> NDArray[np.int32]:
    """(2, P) user_row and item_index, by both: all of the users ``start`` … ``stop`` − 1, and more.

    Args:
        pairs: what is still to be read.
        waiting: (2, …) what was read before.
        start: users before it are left out.
        stop: users from it on are what the next part begins with.
    """
    found = [waiting[:, waiting[0] >= start]]
    while not waiting.shape[1] or waiting[0, -1] < stop:
        block = next(pairs, None)
        if block is None:
            break
        waiting = np.stack(block)
        found.append(waiting[:, waiting[0] >= start])
    both = np.concatenate(found, axis=1)
    return both[:, np.lexsort((both[1], both[0]))]


def _checked(item: NDArray[np.int32], dataset: Dataset) -> NDArray[np.int32]:
    """The items, all of which are there."""
    if len(item) and not 0 <= item.min() <= item.max() < dataset.schema.items:
        bad = item[(item < 0) | (item >= dataset.schema.items)][0]
        raise UserError(
            f"{dataset.folder / dataset.schema.seen_paths[0]}: item_index {bad} is outside "
            f"0 … {dataset.schema.items - 1}: {ANEW}"
        )
    return item
