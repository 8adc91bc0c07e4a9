"""An export in memory in, recommendations out, of all items or of those that may be shown."""

import json
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import read_parquet
from dat_rec.data.dense import AnyColumn
from dat_rec.errors import UserError
from dat_rec.retrieval.answer import (
    MOST_USERS,
    K,
    check_k,
    check_own_items,
    encode_one,
    query_vectors,
    user_rows,
    users_at_once,
)
from dat_rec.retrieval.approximate.ann_index import AnnFacts
from dat_rec.retrieval.distinct import encode_once
from dat_rec.retrieval.exported import (
    ITEMS,
    MANIFEST,
    SEEN_PARTS,
    Export,
    Manifest,
    check_files,
    read_manifest,
)
from dat_rec.retrieval.fresh import NO_INPUTS, FreshInputs
from dat_rec.retrieval.fresh_lists import QUERY, fresh_rules
from dat_rec.retrieval.given import as_allowed, as_array, as_source
from dat_rec.retrieval.item_table import ID, Source, column_names, read_columns
from dat_rec.retrieval.lists import list_schema, vectors_table
from dat_rec.retrieval.option_names import OPTIONS, Names
from dat_rec.retrieval.queries import as_ids
from dat_rec.retrieval.restricted_lists import similar_lists, user_lists
from dat_rec.retrieval.restrictions import (
    Ids,
    ItemRules,
    Restrictions,
    UserRules,
    excluded_pairs,
    per_user_filter,
)
from dat_rec.retrieval.seen_items import ItemsOfUsers
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.storage.address import Location
from dat_rec.storage.snapshot import local_copy, pinned

Ints = NDArray[np.int64]
SIMILAR_ID = "similar_item_id"
KEPT_VECTORS = 2**16
"""Maximum number of users whose vectors are kept, of those that were asked about alone."""


class Recommender:
    """Recommends from an export, in this process; every file was checked when it was opened.

    Example:
        >>> recommender = dat_rec.Recommender.open(Path("export"))
        >>> users = recommender.user_ids[:3]
        >>> rare = recommender.top(users, k=5, exclude_seen=True, filter="train_count < 100")
        >>> rare.column_names, len(rare)
        (['user_id', 'rank', 'item_id', 'score'], 15)
        >>> varied = recommender.top(users, k=5, available=range(50), per_category=2)
        >>> recommender.similar([0, 1], k=3).column_names
        ['item_id', 'rank', 'similar_item_id', 'score']
        >>> recommender.vectors(users).column_names
        ['user_id', 'vector']
    """

    def __init__(self, where: Location, export: Export, manifest: Manifest) -> None:
        self.where, self.export, self.manifest = where, export, manifest
        self.item_ids: pa.Array = export.items.column(ID).combine_chunks()
        """(N,) of all items; row = item_index."""
        self._held: pa.Table | None = None
        self._filter_s: float | None = None
        self._called = OPTIONS
        self._vector_of = lru_cache(KEPT_VECTORS)(partial(encode_one, export))

    @property
    def index(self) -> AnnFacts | None:
        """The approximate index by which unrestricted lists are found; None: all items are scored.

        Lists that leave items out by user (seen, ``exclude``) are found by it too; filters, allowed
        lists and quotas are exact.
        """
        return None if self.export.ann is None else self.export.ann.facts

    @property
    def user_ids(self) -> pa.Array:
        """(U,) the users that the export knows."""
        return self.export.user_ids

    @staticmethod
    def open(path: Location, *, trusted: bool = True) -> "Recommender":
        """Read an export; of one in a store, its files are copied to TMPDIR meanwhile.

        Of several ranks that see the same files each checks some of them.

        Args:
            path: folder that ``dat_rec.export`` made, or its address.
            trusted: whether its query tower may be loaded by ``torch.export``, where it has
                operators that are not run here.

        Raises:
            UserError: no export, one of another version, or a file that is missing or damaged.
        """
        where = pinned(path, MANIFEST)
        rank, ranks = rank_and_ranks() if isinstance(path, Path) else (0, 1)
        with local_copy(where, MANIFEST) as local:
            manifest = read_manifest(local)
            check_files(local, manifest, rank, ranks)
            export = Export.read(
                local, manifest.features, manifest.dense, manifest.ann, trusted=trusted
            )
            export.check_model(manifest, where)
        return Recommender(where, export, manifest)

    def hold(self, filter_s: float | None = None, called: Names = OPTIONS) -> "Recommender":
        """Read all that is read when it is first asked for: the folder may then be replaced.

        Args:
            filter_s: maximum seconds, and with it memory, that a filter may take from now on.
            called: how messages call restrictions from now on.

        Returns:
            Itself.

        Raises:
            UserError: a file cannot be read.
        """
        self._filter_s, self._called = filter_s, called
        source = self._items
        self._held = read_columns(source, column_names(source), str(source))
        if self._seen_parts:
            self.seen.of(0)
        self.export.few.search(self.export.item_vectors[:1], 1)
        self.export.rows_of_users.of(self.user_ids[:1])
        self.export.rows_of_items.of(self.item_ids[:1])
        self._vector_of(len(self.user_ids))
        if self.export.inputs is not None:
            self._fresh.read_all()
        return self

    def top(
        self,
        users: Ids | pa.Table | None = None,
        k: int = K,
        *,
        exclude_seen: bool = False,
        exclude: Source | str | None = None,
        filter: str | None = None,
        item_table: Source | str | None = None,
        available: Source | Ids | str | None = None,
        per_user_filter: str | None = None,
        per_category: int | None = None,
        quotas: Mapping[str, int] | None = None,
        blend_history: bool = False,
        exact: bool = False,
    ) -> pa.Table:
        """The K best items of each user, among all that may be shown.

        A user has fewer than K where no more may be shown; nothing is cut off before.

        Args:
            users: ids; or a table with ``user_id`` and the columns of ``per_user_filter``. None:
                all users of the export. One that it does not know is a user without a past.
            k: K, at most the number of items.
            exclude_seen: leave out the items that the user had in training.
            exclude: pairs to leave out, a table or Parquet file with ``user_id`` and ``item_id``.
            filter: SQL over columns of items, as ``price < 20 AND category = 'TOYS'``.
            item_table: a table or Parquet file with ``item_id`` and fresher or further columns.
            available: ids of the items that may be shown, or a table or Parquet file of them;
                text is a file's path.
            per_user_filter: SQL over both sides' columns, as ``item.region = user.region``.
            per_category: maximum number of items of one category in a list.
            quotas: the same of any columns of items.
            blend_history: rank with each user's own history blended in.
            exact: score all items, also where the export has an approximate index (``index``).

        Returns:
            user_id, rank (int32, from 1), item_id and score (float32), users in their order.

        Raises:
            UserError: an id, an expression, a column or a file is not what it must be, or the
                export lacks what an option needs.
        """
        check_k(k, len(self.item_ids))
        if blend_history:
            check_own_items(self.export)
        wanted = Restrictions(
            exclude_seen,
            as_source(exclude, "exclude"),
            filter,
            as_source(item_table, "item_table"),
            as_allowed(available, "available"),
            per_user_filter,
            _with_category(quotas, per_category),
        )
        columns = users if isinstance(users, pa.Table) else None
        ids = self._ids(users)
        rows = user_rows(self.export, ids)
        rules = self.item_rules(wanted)
        own = self.user_rules(wanted, rules, ids, rows, columns)
        query_BD = self.vectors_of(rows, k)
        schema = list_schema("user_id", ids.type, ID, self.item_ids.type)
        blocks = user_lists(
            self.export, query_BD, k, rules, own, blend_history=blend_history, exact=exact
        )
        tables = [block.table(ids, self.item_ids, schema) for block in blocks]
        return _together(tables, schema)

    def similar(
        self,
        items: Ids | None = None,
        k: int = K,
        *,
        filter: str | None = None,
        item_table: Source | str | None = None,
        available: Source | Ids | str | None = None,
        per_category: int | None = None,
        quotas: Mapping[str, int] | None = None,
        exact: bool = False,
    ) -> pa.Table:
        """The K items that are nearest to each item, itself left out, among those of ``filter``….

        The score is the inner product of the item tower's unit vectors, which is the cosine: what
        popularity adds to users' scores is left out.

        Args:
            items: ids; None: all items of the export.
            k: K, less than the number of items.
            filter: which items may stand in the lists, as all that follows, as of ``top``.
            item_table: as of ``top``.
            available: as of ``top``.
            per_category: as of ``top``.
            quotas: as of ``top``.
            exact: as of ``top``.

        Returns:
            item_id, rank, similar_item_id and score, as of ``top``.

        Raises:
            UserError: as ``top``; an id is of no item.
        """
        wanted = Restrictions(
            filter=filter,
            item_table=as_source(item_table, "item_table"),
            allow=as_allowed(available, "available"),
            quotas=_with_category(quotas, per_category),
        )
        check_k(k, len(self.item_ids) - 1)
        rows = self.item_rows(items)
        schema = list_schema(ID, self.item_ids.type, SIMILAR_ID, self.item_ids.type)
        ids = self.item_ids.take(pa.array(rows))
        blocks = similar_lists(self.export, rows, k, self.item_rules(wanted), exact=exact)
        tables = [block.table(ids, self.item_ids, schema) for block in blocks]
        return _together(tables, schema)

    def vectors(self, users: Ids | None = None) -> pa.Table:
        """The vectors of users, whose inner products with item vectors are the scores.

        Args:
            users: ids; None: all users of the export.

        Returns:
            user_id, and vector, D float32; its metadata's model_id is that of the item vectors.

        Raises:
            UserError: an id is not what it must be.
        """
        ids = self._ids(users)
        rows = user_rows(self.export, ids)
        return vectors_table(ids, self.vectors_of(rows, 1), self.export.model_id)

    def vectors_of(self, rows: Ints, k: int) -> NDArray[np.float32]:
        """(B, D) vectors of users, in blocks whose lists of K fit into memory; keeps lone ones.

        Args:
            rows: (B,) of ``user_rows``.
            k: K.
        """
        if len(rows) == 1:
            return self._vector_of(int(rows[0]))
        return query_vectors(self.export, rows, users_at_once(self.export, k))

    def fresh_vectors(self, queries: pa.Table) -> NDArray[np.float32]:
        """The vectors of users with raw values that training need not have seen.

        Args:
            queries: a row for each of B queries. Columns are called as the query features are, and
                hold what the log had: text, numbers, dates; a history is a list of item ids, the
                most recent last, dense features numbers or lists of them. ``user_id`` may say who
                asks: known users have their embedding. What is missing, or null, is unknown or
                empty; what the training has not seen is unknown (docs/export.md).

        Returns:
            (B, D) float32: as of ``vectors``.

        Raises:
            UserError: a column is of no feature or not of its type, or the export does not hold
                what raw values mean.
        """
        return self._encoded(self.export.tower, self._fresh.query_columns(queries))

    def fresh_item_vectors(self, items: pa.Table) -> NDArray[np.float32]:
        """The vectors of new items, whose raw values training need not have seen.

        They are those of items without a training interaction, as ``evaluate`` ranks them: the id
        counts as unknown, and what popularity adds is that of unknown items.

        Args:
            items: a row for each of B items. Columns are called as the item features are; an
                ``item_id`` beside them is passed over. Values as of ``fresh_vectors``.

        Returns:
            (B, D) float32: as the export's item vectors.

        Raises:
            UserError: as ``fresh_vectors``.
        """
        columns = self._fresh.item_columns(items)
        if self.export.item_tower is None:
            raise UserError(f"{self.where} {NO_INPUTS}")
        return self._encoded(self.export.item_tower, columns)

    def top_fresh(
        self,
        queries: pa.Table,
        k: int = K,
        *,
        exclude_seen: bool = False,
        exclude: Source | str | None = None,
        filter: str | None = None,
        item_table: Source | str | None = None,
        available: Source | Ids | str | None = None,
        per_user_filter: str | None = None,
        per_category: int | None = None,
        quotas: Mapping[str, int] | None = None,
    ) -> pa.Table:
        """The K best items of each query of raw values, among all that may be shown.

        Args:
            queries: as of ``fresh_vectors``; with ``per_user_filter`` its columns may stand beside.
            k: K, at most the number of items.
            exclude_seen: leave out what stands in the query's own lists of items, and what the user
                of its ``user_id`` had in training.
            exclude: pairs to leave out, a table or Parquet file with ``item_id`` and ``query``, the
                row in ``queries`` from 0, or ``user_id``.
            filter: as of ``top``, and all that follows.
            item_table: as of ``top``.
            available: as of ``top``.
            per_user_filter: as of ``top``, where ``user.…`` are the columns of ``queries``.
            per_category: as of ``top``.
            quotas: as of ``top``.

        Returns:
            query (int64, the row in ``queries``), rank (int32, from 1), item_id and score
            (float32), queries in their order.

        Raises:
            UserError: as ``top`` and ``fresh_vectors``.
        """
        check_k(k, len(self.item_ids))
        wanted = Restrictions(
            exclude_seen,
            as_source(exclude, "exclude"),
            filter,
            as_source(item_table, "item_table"),
            as_allowed(available, "available"),
            per_user_filter,
            _with_category(quotas, per_category),
        )
        columns = self._fresh.query_columns(queries, others=per_user_filter is not None)
        query_BD = self._encoded(self.export.tower, columns)
        rules = self.item_rules(wanted)
        seen = self.seen if exclude_seen else None
        own = fresh_rules(wanted, rules, queries, self._fresh, self.export, seen)
        ids = pa.array(np.arange(len(queries)))
        schema = list_schema(QUERY, ids.type, ID, self.item_ids.type)
        blocks = user_lists(self.export, query_BD, k, rules, own, blend_history=False)
        tables = [block.table(ids, self.item_ids, schema) for block in blocks]
        return _together(tables, schema)

    @cached_property
    def _fresh(self) -> FreshInputs:
        return FreshInputs(self.where, self.export, self.manifest)

    def _encoded(self, tower: QueryTower, columns: Mapping[str, AnyColumn]) -> NDArray[np.float32]:
        """(B, D) vectors of B rows; equal rows are encoded once."""
        rows = np.arange(len(next(iter(columns.values()))))
        return encode_once(columns, rows, tower.encode, MOST_USERS)

    def item_rules(self, wanted: Restrictions) -> ItemRules:
        """What restrictions mean for all users alike; errors are those of ``ItemRules.of``."""
        own = self._items if self._held is None else self._held
        return ItemRules.of(own, self.item_ids, wanted, self._filter_s, self._called)

    def user_rules(
        self,
        wanted: Restrictions,
        rules: ItemRules,
        ids: pa.Array,
        rows: Ints,
        columns: Source | None = None,
        *,
        user_id: str = "user_id",
        first: int = 0,
    ) -> UserRules:
        """What restrictions mean for each of B users.

        Args:
            wanted: the restrictions.
            rules: for all users.
            ids: (B,)
            rows: (B,) of ``user_rows``.
            columns: a table with a row for each user, and maybe others.
            user_id: the columns of files that hold the ids of users.
            first: the first user's row in ``columns``.

        Raises:
            UserError: the export does not hold what users have seen, or as ``excluded_pairs`` and
                ``per_user_filter``.
        """
        numbers, excluded, per_user = np.arange(len(rows)), None, None
        if wanted.exclude is not None:
            numbers, excluded = excluded_pairs(wanted.exclude, ids, self.export, user_id)
        if wanted.per_user_filter is not None:
            own = slice(first, first + len(rows))
            per_user = per_user_filter(wanted.per_user_filter, rules.table, columns, own)
        seen = self.seen if wanted.exclude_seen else None
        return UserRules(rows, seen, numbers, excluded, per_user)

    def item_rows(self, items: Ids | None, name: str = "items") -> Ints:
        """(B,) item_index of ids; None: of all items.

        Args:
            items: the ids.
            name: of what gave them, for messages.

        Raises:
            UserError: one is of no item.
        """
        if items is None:
            return np.arange(len(self.item_ids))
        ids = as_ids(name, ID, as_array(items, name), self.item_ids.type, ID)
        rows = self.export.rows_of_items.of(ids)
        if (rows < 0).any():
            unknown = ids[int((rows < 0).argmax())].as_py()
            raise UserError(f"{name}: the export has no item {json.dumps(unknown)}: leave it out")
        return rows

    @property
    def _items(self) -> Location:
        return self.where / ITEMS

    @property
    def _seen_parts(self) -> list[str]:
        return sorted(name for name in self.manifest.sha256 if name.startswith(f"{SEEN_PARTS}/"))

    @cached_property
    def seen(self) -> ItemsOfUsers:
        """What the export's users had in training."""
        names = self._seen_parts
        if not names:
            raise UserError(
                f"{self.where} does not hold what users had in training, which "
                f"{self._called.exclude_seen} leaves out: export anew, or {self._called.exclude}"
            )
        columns = ["user_id", "item_index"]
        table = pa.concat_tables([read_parquet(self.where / name, columns) for name in names])
        if not table["user_id"].combine_chunks().equals(self.user_ids):
            raise UserError(f"{self.where}: is another export by now: open it anew")
        return ItemsOfUsers.of_lists(table["item_index"])

    def _ids(self, users: Ids | pa.Table | None) -> pa.Array:
        if users is None:
            return self.user_ids
        if isinstance(users, pa.Table):
            users = read_columns(users, ["user_id"], "users")["user_id"]
        return as_ids("users", "user_id", as_array(users, "users"), self.user_ids.type)


def _together(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def _with_category(quotas: Mapping[str, int] | None, per_category: int | None) -> dict[str, int]:
    if not isinstance(quotas, Mapping | None):
        raise UserError(f"quotas: is {type(quotas).__name__}: give a dict, as {{'category': 3}}")
    of_category = {} if per_category is None else {"category": per_category}
    return {**(quotas or {}), **of_category}
