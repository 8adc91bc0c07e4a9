"""A prepared dataset in, the questions of the evaluation out: who is asked for which item.

The protocol is the paper's: every test interaction is one query, and its item is ranked
among all items of the training span. Beside it stand the queries that are new pairs, and
those that the training data cannot answer (cold).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.retrieval.feature_rows import RowGroups

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Known(NamedTuple):
    """Whom and what a model knows that was trained on another dataset."""

    users: Flags
    """(users,)"""
    items: Flags
    """(N,)"""


@dataclass(frozen=True)
class Protocol:
    """The queries of an evaluation, and what training knew.

    Q test interactions, N items of which the first T are trained, P training pairs.
    """

    user_row: Ints
    """(Q,): the user of each query."""
    item_index: Ints
    """(Q,): the item that the user took; several interactions may name the same pair."""
    user_trained: Flags
    """(users,): whether the user has a training interaction."""
    train_count: Ints
    """(N,): number of training interactions of each item; above 0 for the first T items only."""
    category: Ints
    """(N,): each item's category, a number into ``category_names``."""
    category_names: tuple[str, ...]
    """The name of each category, no two alike."""
    seen_offsets: Ints
    """(users + 1,): user u's training pairs are seen_offsets[u] … seen_offsets[u + 1] − 1; a user
    who is not asked has none."""
    seen_item: Ints
    """(P,): item of each training pair, rising within a user; below T."""
    seen_count: Ints
    """(P,): number of times the pair occurs in training."""
    known: Known | None = None
    """What the model knows; None: what has a training interaction here."""

    @staticmethod
    def read(
        dataset: Dataset, span: Literal["test", "validation"] = "test", most: int = 0, seed: int = 0
    ) -> "Protocol":
        """Read test.parquet, seen.parquet and what they need of users and items.

        Args:
            dataset: a prepared dataset.
            span: which interactions are the queries: the file's name.
            most: maximum number of queries: of more, those of users who are drawn at random, as
                many as go into it (one at least), so that each user's are together; 0: all.
            seed: decides which ones.

        Raises:
            UserError: a table cannot be read or names a row that is not there, the catalogue
                does not begin with its trained items, or nothing is held out.
        """
        schema, folder = dataset.schema, dataset.folder
        test = dataset.table(span, ["user_row", "item_index"])
        items = dataset.table("items", ["category_name", "train_count"])
        train_count = numbers(items, "train_count", f"{folder / 'items.parquet'}")
        trained = np.arange(schema.items) < schema.trained_items
        if np.any((train_count > 0) != trained):
            raise UserError(
                f"{folder / 'items.parquet'}: train_count must be above 0 in the first "
                f"{schema.trained_items} rows and 0 after them: prepare the dataset anew"
            )
        where_test = f"{folder / span}.parquet"
        if not test.num_rows:
            raise UserError(f"{where_test}: holds no interaction: hold some out, to rank them")
        user_row = numbers(test, "user_row", where_test, schema.users)
        if most and len(user_row) > most:
            kept = _of_some_users(user_row, most, seed)
            test, user_row = test.filter(pa.array(kept)), user_row[kept]
        user, item, count = _seen(dataset, user_row)
        names = items.column("category_name").combine_chunks().fill_null("(unknown)")
        category = pc.dictionary_encode(names)
        return Protocol(
            user_row=user_row,
            item_index=numbers(test, "item_index", where_test, schema.items),
            user_trained=dataset.table("users", ["trained"]).column("trained").to_numpy(),
            train_count=train_count,
            category=category.indices.to_numpy().astype(np.int64),
            category_names=tuple(category.dictionary.to_pylist()),
            seen_offsets=np.searchsorted(user, np.arange(schema.users + 1)),
            seen_item=item,
            seen_count=count,
        )

    @staticmethod
    def of_targets(target_Q: Ints, items: int) -> "Protocol":
        """One query of a user of its own for each target, and nothing known of training.

        Args:
            target_Q: (Q,) rows of the catalogue.
            items: N, number of rows of the catalogue; each counts as trained.
        """
        queries, none = len(target_Q), np.zeros(0, np.int64)
        return Protocol(
            user_row=np.arange(queries),
            item_index=target_Q,
            user_trained=np.ones(queries, np.bool_),
            train_count=np.ones(items, np.int64),
            category=np.zeros(items, np.int64),
            category_names=("(unknown)",),
            seen_offsets=np.zeros(queries + 1, np.int64),
            seen_item=none,
            seen_count=none,
        )

    @cached_property
    def users(self) -> Ints:
        """(U,): the users who are asked, rising: each is encoded once."""
        return np.unique(self.user_row)

    @cached_property
    def queries_by_user(self) -> list[Ints]:
        """The numbers of each user's queries, by ``users``."""
        order = np.argsort(self.user_row, kind="stable")
        ends = np.searchsorted(self.user_row[order], self.users, "right")
        return np.split(order, ends)[:-1]

    @cached_property
    def trained_items(self) -> int:
        """T, number of items with a training interaction."""
        return int(np.count_nonzero(self.train_count))

    @cached_property
    def answerable(self) -> Flags:
        """(Q,): whether user and item both occur in training."""
        known_user: Flags = self.user_trained[self.user_row]
        known_item: Flags = self.item_index < self.trained_items
        return known_user & known_item

    @cached_property
    def new_user(self) -> Flags:
        """(Q,): whether the model does not know the user."""
        known = self.user_trained if self.known is None else self.known.users
        new: Flags = ~known[self.user_row]
        return new

    @cached_property
    def new_item(self) -> Flags:
        """(Q,): whether the model does not know the item."""
        known = self.train_count > 0 if self.known is None else self.known.items
        new: Flags = ~known[self.item_index]
        return new

    @cached_property
    def warm(self) -> Flags:
        """(Q,): whether the model knows user and item: without ``known``, what is answerable."""
        return ~(self.new_user | self.new_item)

    @cached_property
    def own_pair(self) -> Ints:
        """(Q,): where ``seen_item`` has the query's pair; −1 where training does not."""
        items = len(self.train_count)
        owner = np.repeat(np.arange(len(self.user_trained)), np.diff(self.seen_offsets))
        pairs, asked = owner * items + self.seen_item, self.user_row * items + self.item_index
        position = np.searchsorted(pairs, asked)
        return np.where(np.append(pairs, -1)[position] == asked, position, -1)

    @cached_property
    def own_count(self) -> Ints:
        """(Q,): number of times the query's pair occurs in training."""
        return np.where(self.own_pair >= 0, np.append(self.seen_count, 0)[self.own_pair], 0)

    @cached_property
    def new_pair(self) -> Flags:
        """(Q,): whether it is answerable, and the pair does not occur in training."""
        new: Flags = self.own_count == 0
        return self.answerable & new

    def seen_slice(self, user: int) -> slice:
        """Where ``seen_item`` and ``seen_count`` hold the user's training pairs."""
        return slice(int(self.seen_offsets[user]), int(self.seen_offsets[user + 1]))


def _of_some_users(user_row: Ints, most: int, seed: int) -> Flags:
    """(Q,): whether the query's user is one of those who are drawn."""
    users, place, queries = np.unique(user_row, return_inverse=True, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(users))
    taken = np.cumsum(queries[drawn]) <= most
    taken[0] = True
    chosen = np.zeros(len(users), np.bool_)
    chosen[drawn[taken]] = True
    kept: Flags = chosen[place]
    return kept


def _seen(dataset: Dataset, asked: Ints) -> tuple[Ints, Ints, Ints]:
    """Read user, item and count of the training pairs of users who are asked, by user and item.

    One row group is in memory at a time, and the pairs that are kept. A pair of several files is
    one, and its counts add up.
    """
    schema = dataset.schema
    kept = np.zeros(schema.users, np.bool_)
    kept[asked] = True
    parts = [np.zeros((3, 0), np.int64)]
    for path in (dataset.folder / name for name in schema.seen_paths):
        source = RowGroups(path, ["user_row", "item_index", "count"])
        for group in range(len(source.bounds) - 1):
            table, where = source.read(group), str(path)
            user = numbers(table, "user_row", where, schema.users)
            item = numbers(table, "item_index", where, schema.trained_items)
            pairs = np.stack([user, item, numbers(table, "count", where)])
            parts.append(pairs[:, kept[user]])
    user, item, count = np.concatenate(parts, axis=1)
    order = np.lexsort((item, user))
    user, item, count = user[order], item[order], count[order]
    first = np.flatnonzero((np.diff(user, prepend=-1) != 0) | (np.diff(item, prepend=-1) != 0))
    if len(first) < len(user):
        count = np.add.reduceat(count, first)
    return user[first], item[first], count


def numbers(table: pa.Table, column: str, where: str, rows: int | None = None) -> Ints:
    """A column as int64; with ``rows``, each value must be a row number below it."""
    array = table.column(column)
    if not pa.types.is_integer(array.type) or array.null_count:
        raise UserError(
            f"{where}: column {column!r} must hold integers without nulls: prepare the dataset anew"
        )
    values: Ints = array.to_numpy().astype(np.int64)
    if rows is not None and np.any(bad := (values < 0) | (values >= rows)):
        raise UserError(
            f"{where}: column {column!r} names row {values[bad][0]}, outside 0 … {rows - 1}: "
            "prepare the dataset anew"
        )
    return values
