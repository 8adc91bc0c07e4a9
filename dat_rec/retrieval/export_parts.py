"""A dataset and item vectors in, an export's tables out: each rank writes some of the parts."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.columns import BadIds, Column
from dat_rec.data.dataset import Dataset
from dat_rec.data.dense import parted, read_all
from dat_rec.dist.agree import all_gather_object, together
from dat_rec.errors import UserError
from dat_rec.retrieval.blend import Blend, bonus, read_past
from dat_rec.retrieval.compact import parquet_options
from dat_rec.retrieval.divided import fetch
from dat_rec.retrieval.encode import EncodedItems
from dat_rec.retrieval.exported import (
    ITEM_PARTS,
    ITEMS,
    OWN_PARTS,
    PART_ROWS,
    USER_PARTS,
    part_name,
)
from dat_rec.retrieval.feature_rows import RowGroups
from dat_rec.retrieval.own_items import OWN_COLUMNS
from dat_rec.retrieval.table_forms import Form
from dat_rec.retrieval.vector_parts import (
    float_vectors,
    vectors_digest,
    vectors_table,
    write_vectors,
)


class WrittenVectors(NamedTuple):
    """What comes of ``write_item_vectors``."""

    digests: dict[str, str]
    """SHA-256 of the vectors' numbers in each of this rank's parts, by the part's name."""
    largest: float
    """By how much one of them, in all ranks' parts, differs from the model's at most."""


def write_item_vectors(
    dataset: Dataset,
    items: EncodedItems,
    folder: Path,
    model_id: str,
    form: Form = "float32",
    *,
    popularity: bool = False,
) -> WrittenVectors:
    """Write the parts of item vectors, each with the model's id. Collective.

    Args:
        dataset: of the items.
        items: their vectors.
        folder: the export's.
        model_id: of the model.
        form: in which they are stored.
        popularity: whether they end in what popularity adds.

    Raises:
        UserError: a vector is not finite, or the dataset's items cannot be read.
    """
    rank, ranks = rank_and_ranks()
    count = dataset.schema.items
    ids = RowGroups(dataset.folder / ITEMS, ["item_id"], count)
    digests, largest = {}, 0.0
    for first in range(0, parts_of(count), ranks):
        start = min(count, (first + rank) * PART_ROWS)
        stop = min(count, start + PART_ROWS)
        kinds, places = np.unique(items.kind[start:stop], return_inverse=True)
        (rows,) = fetch([(items.rows, torch.from_numpy(kinds))])
        vectors_ND = rows.numpy()[places]
        with together():
            if not np.isfinite(vectors_ND).all():
                raise UserError("an item vector is not finite: training diverged; train anew")
            if start < stop or first + rank == 0:
                name = part_name(ITEM_PARTS, first + rank)
                own = ids.read_rows(start, stop)
                table = vectors_table(own, start, vectors_ND, model_id, form, popularity=popularity)
                write_vectors(table, folder / name)
                stored_ND = float_vectors(table)
                digests[name] = vectors_digest(stored_ND)
                largest = max(largest, float(np.abs(stored_ND - vectors_ND).max(initial=0.0)))
    return WrittenVectors(digests, max(all_gather_object(largest)))


def write_users(dataset: Dataset, folder: Path, *, compact: bool = False) -> dict[str, int]:
    """Write the parts of users with their query features, row group by row group. Collective.

    Ids that were trained as unknown are written as unknown.

    Args:
        dataset: of the users.
        folder: the export's.
        compact: whether they are written in few bytes (``compact.py``).

    Returns:
        For each feature with lists, and each dense one, the first user who has none.

    Raises:
        UserError: the dataset's users cannot be read, or hold what is no feature.
    """
    rank, ranks = rank_and_ranks()
    features, count = dataset.schema.side("query"), dataset.schema.users
    dense = dataset.schema.dense_side("query")
    names = ["user_id", *(one.name for one in features), *(one.name for one in dense)]
    empty: dict[str, int] = {}
    with together():
        source = RowGroups(dataset.folder / "users.parquet", names, count)
        for number in range(rank, parts_of(count), ranks):
            first = number * PART_ROWS
            rows = np.arange(first, min(count, first + PART_ROWS))
            path = folder / part_name(USER_PARTS, number)
            schema = source.read_rows(0, 0).schema
            options = parquet_options(schema) if compact else {}
            with pq.ParquetWriter(path, schema, **options) as writer:
                for group, own in source.groups_of(rows):
                    table = source.read(group).slice(own[0], len(own))
                    bad_ids = BadIds(dataset.bad_ids)
                    columns = read_all(table, features, dense, str(source.path), bad_ids)
                    of_ids = parted(columns)[0]
                    for name in bad_ids.counts:
                        position = table.column_names.index(name)
                        kind = table.schema.field(name)
                        table = table.set_column(
                            position, kind, _to_arrow(of_ids[name]).cast(kind.type)
                        )
                    writer.write_table(table)
                    for name, column in columns.items():
                        if len(none := np.flatnonzero(column.lengths() == 0)):
                            user = int(source.bounds[group] + own[0] + none[0])
                            empty.setdefault(name, user)
    found: dict[str, int] = {}
    for of_rank in all_gather_object(empty):
        for name, user in of_rank.items():
            found[name] = min(user, found.get(name, user))
    return found


def write_own_items(dataset: Dataset, blend: Blend, folder: Path, *, compact: bool = False) -> None:
    """Write what own history adds to the scores of each user's own items, in parts. Collective.

    A rank holds the training interactions of the users whose parts it writes.

    Raises:
        UserError: the examples cannot be read.
    """
    rank, ranks = rank_and_ranks()
    count = dataset.schema.users
    with together():
        past = read_past(dataset, np.arange(count) // PART_ROWS % ranks == rank)
        item = pa.array(past.item.astype(np.int32))
        added = pa.array(bonus(blend.weight, past.strength(blend.half_life)))
        ids = RowGroups(dataset.folder / "users.parquet", ["user_id"], count)
        for number in range(rank, parts_of(count), ranks):
            start, stop = number * PART_ROWS, min(count, (number + 1) * PART_ROWS)
            ends = np.searchsorted(past.user, np.arange(start, stop + 1))
            own = slice(ends[0], ends[-1])
            lists = (
                pa.LargeListArray.from_arrays(
                    ends - ends[0], values[own], type=list_of(values.type)
                )
                for values in (item, added)
            )
            user_ids = ids.read_rows(start, stop).column("user_id").combine_chunks()
            table = pa.table([user_ids, *lists], ["user_id", *OWN_COLUMNS])
            options = parquet_options(table.schema) if compact else {}
            pq.write_table(table, folder / part_name(OWN_PARTS, number), **options)


def list_of(kind: pa.DataType) -> pa.DataType:
    """Lists that are named as in a Parquet file: the same bytes are written of them once read."""
    return pa.large_list(pa.field("element", kind))


def parts_of(rows: int) -> int:
    """Return how many parts that many items or users make: one at least."""
    return max(1, -(-rows // PART_ROWS))


def _to_arrow(column: Column) -> pa.Array:
    if column.offsets is None:
        return pa.array(column.values)
    return pa.LargeListArray.from_arrays(column.offsets, column.values)
