"""Training interactions of a range of users in, what the dataset's files hold of them out.

Whatever concerns a user's own interactions is found here, a range of users at a time, so that
memory holds the ranges that threads are busy with, and a restart keeps the finished ones. In, in
the work folder::

    user_rows.parquet            user_id, trained, query features; by user_row
    training/range=R/*.parquet   user_row, item_index, time, and sequence and example_weight if the
                                 log has them, of the range's training interactions

Where interactions follow a dataset (``--after``), each user's history there stands before them, and
what is written of pairs and examples is of the new ones.

Out:

    sequence.int32   the item_index of every training interaction by user, time and item
    users/R.arrow    the rows of users.parquet; in place of the history, where it is in the sequence
    seen/R.arrow     the rows of seen.parquet
    past/R.arrow     the rows of past.parquet, if only interactions from a time on are examples
    examples/R.arrow the examples without history and item features, by their shuffle key: a batch
                     for each example file, with the key, and where the history is in the sequence
    ties/R           how many interactions nothing but the item orders after the one before
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dat_rec.data.prepare.history import (
    Pairs,
    Sequences,
    Windows,
    behind_histories,
    find_pairs,
    order_at_random,
    order_interactions,
)
from dat_rec.data.prepare.pairs_before import PairsBefore
from dat_rec.data.prepare.shuffle import Keys, file_of, shuffle_keys
from dat_rec.data.prepare.user_histories import UserHistories
from dat_rec.data.schema import EXAMPLE_WEIGHT
from dat_rec.data.source import REPEAT, SEQUENCE
from dat_rec.files import whole_file

KEY = "_key"
PLACES = START, LENGTH, BEGIN, END = "_start", "_length", "_begin", "_end"
"""Columns of a history's place in the sequence; the last two in a log without order alone."""
ITEMS_IN_ORDER = "sequence.int32"


@dataclass(frozen=True)
class UserRange:
    """Users with consecutive rows, and their training interactions."""

    number: int
    """Rises from 0; behind a user with more than a range's rows, numbers are left out."""
    first_user: int
    """user_row of the first."""
    users: int
    first_row: int
    """Where their training interactions begin in the sequence."""
    rows: int
    """Number of their training interactions; of those that follow a dataset, with the items of all
    histories before them, were these full."""
    first_example: int
    """Number of the examples of all users before."""
    examples: int
    """Number of their own: all training interactions, or the later ones."""


@dataclass(frozen=True)
class Shared:
    """What all ranges need."""

    work: Path
    cuts: Keys
    """First keys of the example files but the first."""
    seed: int
    history_length: int
    train_from: int | None
    """Time from which on training interactions are examples; None: all are."""
    features: tuple[str, ...]
    """Names of the query features but the history."""
    row_group: int
    """Rows of a row group of user_rows.parquet."""
    has_sequence: bool
    """Whether a sequence orders the interactions of one time."""
    unordered: bool
    """Whether no user has interactions of two times: histories hold the user's other items."""
    weighted: bool = False
    """Whether interactions have weights as examples."""
    before: UserHistories | None = None
    """The histories in the dataset that the interactions follow; None: there is none."""
    pairs_before: PairsBefore | None = None
    """Its pairs."""


def make_folders(work: Path) -> None:
    """Make the folders of ``write_range``, which may be there."""
    for name in ("users", "seen", "past", "examples", "ties"):
        (work / name).mkdir(exist_ok=True)
    (work / ITEMS_IN_ORDER).touch()


def write_range(of: UserRange, shared: Shared, done: Callable[[int], None]) -> None:
    """Write the range's files; one that is finished stays.

    Args:
        of: the range.
        shared: what all ranges need.
        done: is told how many rows have been worked on.
    """
    last = shared.work / "examples" / f"{of.number}.arrow"
    if not last.exists():
        sequences = _read(of, shared)
        length, users_of = shared.history_length, (of.first_user, of.users)
        if shared.before is None:
            item, last_items = sequences.item, sequences.last(*users_of, length)
        else:
            before = shared.before.read(*users_of)
            sequences, item, last_items = behind_histories(sequences, before, length, of.first_user)
        done(of.rows // 4)
        with whole_file(shared.work / "ties" / str(of.number)) as partial:
            partial.write_text(str(sequences.ties))
        _write_sequence(of, item, shared)
        users = _users(of, shared)
        places = _places(last_items.behind(of.first_row))
        _write(shared.work / "users" / last.name, [_with_columns(users, places)])
        pairs = find_pairs(sequences, shared.pairs_before)
        done(of.rows // 4)
        _write(shared.work / "seen" / last.name, [_seen(pairs)])
        if shared.train_from is not None and shared.before is None:
            _write(shared.work / "past" / last.name, [_past(sequences, shared.train_from)])
        _write(last, _examples(of, shared, sequences, pairs, users.select(shared.features)))
        done(of.rows - 2 * (of.rows // 4))
    else:
        done(of.rows)


def count_ties(work: Path) -> int:
    """How many training interactions nothing but the item orders after the user's one before."""
    return sum(int(file.read_text()) for file in (work / "ties").iterdir())


def _read(of: UserRange, shared: Shared) -> Sequences:
    """The range's interactions, in order."""
    folder = shared.work / "training" / f"range={of.number}"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    parts = [pq.ParquetFile(file).read() for file in files]
    user, item, time = (
        np.concatenate([np.empty(0, dtype), *(part[name].to_numpy() for part in parts)])
        for name, dtype in (("user_row", np.int32), ("item_index", np.int32), ("time", np.int64))
    )
    sequence = None
    if shared.has_sequence:
        found = [part[SEQUENCE].to_numpy() for part in parts]
        sequence = np.concatenate([np.empty(0, np.int64), *found])
    weight = None
    if shared.weighted:
        weights = [part[EXAMPLE_WEIGHT].to_numpy() for part in parts]
        weight = np.concatenate([np.empty(0, np.float32), *weights])
    length = shared.history_length
    if shared.unordered:
        return order_at_random(user, item, time, length, shared.seed, sequence, weight)
    return order_interactions(user, item, time, length, sequence, weight)


def _write_sequence(of: UserRange, item: NDArray[np.int32], shared: Shared) -> None:
    with (shared.work / ITEMS_IN_ORDER).open("r+b") as file:
        file.seek(of.first_row * 4)
        item.tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _users(of: UserRange, shared: Shared) -> pa.RecordBatch:
    """The range's rows of user_rows.parquet."""
    size, end = shared.row_group, of.first_user + of.users
    groups = list(range(of.first_user // size, -(-end // size)))
    table = pq.ParquetFile(shared.work / "user_rows.parquet").read_row_groups(groups)
    table = table.slice(of.first_user - groups[0] * size, of.users).combine_chunks()
    return table.to_batches()[0]


def _seen(pairs: Pairs) -> pa.RecordBatch:
    columns = {"user_row": pairs.user, "item_index": pairs.item, "count": pairs.count}
    return pa.RecordBatch.from_pydict({name: pa.array(value) for name, value in columns.items()})


def _past(sequences: Sequences, train_from: int) -> pa.RecordBatch:
    """The training interactions before ``train_from``."""
    rows = np.flatnonzero(sequences.time < train_from)
    columns: dict[str, NDArray[np.signedinteger]] = {
        "user_row": sequences.user,
        "item_index": sequences.item,
        "time": sequences.time,
        **({} if sequences.sequence is None else {SEQUENCE: sequences.sequence}),
    }
    return pa.RecordBatch.from_pydict(
        {name: pa.array(value[rows]) for name, value in columns.items()}
    )


def _examples(
    of: UserRange,
    shared: Shared,
    sequences: Sequences,
    pairs: Pairs,
    features: pa.RecordBatch,
) -> list[pa.RecordBatch]:
    """A batch for each example file, possibly empty."""
    rows = np.arange(len(sequences.user))
    if shared.train_from is not None:
        rows = rows[sequences.time >= shared.train_from]
    keys = shuffle_keys(of.first_example + np.arange(len(rows)), shared.seed)
    by_key = np.argsort(keys)
    keys, order = keys[by_key], rows[by_key]
    columns: dict[str, NDArray[Any]] = {
        "item_index": sequences.item[order],
        "time": sequences.time[order],
        REPEAT: pairs.repeat[order],
        **({} if sequences.sequence is None else {SEQUENCE: sequences.sequence[order]}),
        **({} if sequences.weight is None else {EXAMPLE_WEIGHT: sequences.weight[order]}),
        KEY: keys,
        **_places(sequences.histories.take(order).behind(of.first_row)),
    }
    batch = features.take(pa.array(sequences.user[order] - of.first_user))
    batch = _with_columns(batch, columns)
    edges = np.searchsorted(file_of(keys, shared.cuts), np.arange(len(shared.cuts) + 2))
    return [batch.slice(a, b - a) for a, b in pairwise(edges)]


def _with_columns(batch: pa.RecordBatch, columns: dict[str, NDArray[Any]]) -> pa.RecordBatch:
    for name, values in columns.items():
        batch = batch.append_column(name, pa.array(values))
    return batch


def _places(histories: Windows) -> dict[str, NDArray[np.signedinteger]]:
    columns: dict[str, NDArray[np.signedinteger]] = {
        START: histories.start,
        LENGTH: histories.length.astype(np.int32),
    }
    if histories.bounds_2B is not None:
        columns |= {BEGIN: histories.bounds_2B[0], END: histories.bounds_2B[1]}
    return columns


def histories_of(rows: pa.RecordBatch) -> Windows:
    """Where the sequence holds the histories of a batch of users/R.arrow or examples/R.arrow."""
    start, length = rows[START].to_numpy(), rows[LENGTH].to_numpy().astype(np.int64)
    if BEGIN not in rows.schema.names:
        return Windows(start, length)
    return Windows(start, length, np.stack([rows[BEGIN].to_numpy(), rows[END].to_numpy()]))


def _write(path: Path, batches: Sequence[pa.RecordBatch]) -> None:
    with whole_file(path) as partial, pa.ipc.new_file(partial, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
