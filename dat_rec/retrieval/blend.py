"""A user's training interactions in, what they add to the model's scores of the same items out.

    score(u, v) = ⟨p_u, p_v⟩ + weight · log(1 + Σ over the times t when u took v of 2^(−age(t) / h))

The age of an interaction is the time from it to the last one of training, as a share of the whole
training's time; h is the half-life in the same measure. Without one nothing ages, and the sum is
how often u took v. An item that the user never took adds log 1 = 0: among new items the order is
the model's own. weight ≥ 0 places the user's own items among them; these are ordered by how often
and how lately they were taken, and by the model.

(Frequency that decays with time: Anderson et al., "The dynamics of repeat consumption", WWW 2014;
Hu et al., "Modeling personalized item frequency information for next-basket recommendation",
SIGIR 2020.)
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import USER
from dat_rec.errors import UserError
from dat_rec.retrieval.feature_rows import RowGroups
from dat_rec.retrieval.protocol import Protocol, numbers

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Blend(NamedTuple):
    """The weights."""

    weight: float
    """At least 0; at 0 the model stands alone."""
    half_life: float | None
    """h, as a share of training's time; None: nothing ages."""


class Past(NamedTuple):
    """The P training pairs of some users, by user and item, and when each was."""

    user: Ints
    """(P,): rows of users.parquet."""
    item: Ints
    """(P,): item_index."""
    first: Ints
    """(P,): where each pair's ages begin."""
    age: Floats
    """(interactions,): in 0 … 1, of a pair the oldest first."""

    def counts(self) -> Ints:
        """(P,): how often each pair occurs."""
        return np.diff(np.append(self.first, len(self.age)))

    def strength(self, half_life: float | None) -> Floats:
        """(P,): the logarithm of the docstring above; ``bonus`` multiplies it."""
        if not len(self.first):
            return np.zeros(0)
        aged = 0 if half_life is None else -self.age / half_life
        each = np.exp2(np.broadcast_to(aged, len(self.age)))
        return np.asarray(np.log1p(np.add.reduceat(each, self.first)))

    def split(self, share: float) -> "tuple[Past, Past]":
        """Cut the last interactions off: at most a share, equal times together.

        Returns:
            The past as of then, and the pairs that came after it.
        """
        last = int(share * len(self.age))
        cut = -1.0 if last == len(self.age) else float(np.sort(self.age)[last])
        late = self.age < cut
        pair = np.repeat(np.arange(len(self.first)), self.counts())
        before = (self.age[~late] - cut) / (1 - cut) if cut < 1 else self.age[~late] - cut
        return self._of(pair[~late], before), self._of(pair[late], self.age[late])

    def _of(self, pair: Ints, age: Floats) -> "Past":
        """Those interactions alone; ``pair`` rises."""
        found, first = np.unique(pair, return_index=True)
        return Past(self.user[found], self.item[found], first, age)


def bonus(weight: float, strength: Floats) -> NDArray[np.float32]:
    """What a pair adds to the model's score."""
    return (weight * strength).astype(np.float32)


def read_past(dataset: Dataset, kept: NDArray[np.bool_]) -> Past:
    """Read the training interactions of some users: the examples, and those of the past.

    One row group is in memory at a time, and 24 bytes for each interaction that is kept.

    Args:
        dataset: a prepared dataset.
        kept: (users,): whose are wanted.

    Raises:
        UserError: a file cannot be read, or names a row that is not there.
    """
    schema = dataset.schema
    parts = [np.zeros((3, 0), np.int64)]
    begins, ends = [], []
    for user, item, time in _training(dataset):
        if len(time):
            begins.append(int(time.min()))
            ends.append(int(time.max()))
        known = np.flatnonzero((user >= 0) & (user < schema.users))  # others train as unknown
        own = known[kept[user[known]]]
        parts.append(np.stack([user[own], item[own], time[own]]))
    user, item, time = np.concatenate(parts, axis=1)
    order = np.lexsort((time, item, user))
    user, item, time = user[order], item[order], time[order]
    new = np.ones(len(user), np.bool_)
    new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    end = max(ends, default=0)
    age = (end - time) / max(1, end - min(begins, default=0))
    return Past(user[new], item[new], np.flatnonzero(new), age)


def _training(dataset: Dataset) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Who took what when, row group by row group: row of users.parquet, item_index, time."""
    schema = dataset.schema
    # An example has the user's embedding row, which counts from 1.
    files: list[tuple[str, int | None, str, int]] = [
        (file.path, file.rows, USER, 1) for file in schema.example_files
    ]
    past = None if schema.past_files else schema.past
    files += [(path, past, "user_row", 0) for path in schema.past_paths]
    for name, rows, column, first in files:
        where = str(dataset.folder / name)
        source = RowGroups(dataset.folder / name, [column, "item_index", "time"], rows)
        for group in range(len(source.bounds) - 1):
            table = source.read(group)
            user = numbers(table, column, where) - first
            item = numbers(table, "item_index", where, schema.trained_items)
            yield user, item, numbers(table, "time", where)


def past_of(dataset: Dataset, protocol: Protocol) -> Past:
    """Read the past of the users who are asked: its pairs are those of ``protocol.seen_item``.

    Raises:
        UserError: the examples cannot be read, or tell other pairs than seen.parquet.
    """
    kept = np.zeros(dataset.schema.users, np.bool_)
    kept[protocol.users] = True
    past = read_past(dataset, kept)
    owner = np.repeat(np.arange(len(protocol.user_trained)), np.diff(protocol.seen_offsets))
    found = (past.user, past.item, past.counts())
    wanted = (owner, protocol.seen_item, protocol.seen_count)
    if not all(map(np.array_equal, found, wanted)):
        raise UserError(
            f"{dataset.folder}: the examples and seen.parquet tell different training pairs: "
            "prepare the dataset anew"
        )
    return past
