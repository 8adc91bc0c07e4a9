"""An export in memory in, recommendations out, of all items or of those that may be shown."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import read_parquet
from dat_rec.errors import UserError
from dat_rec.retrieval.answer import (
    K,
    check_k,
    check_own_items,
    query_vectors,
    user_rows,
    users_at_once,
)
from dat_rec.retrieval.approximate.ann_index import AnnFacts
from dat_rec.retrieval.exported import (
    MANIFEST,
    SEEN_PARTS,
    Export,
    Manifest,
    check_files,
    read_manifest,
)
from dat_rec.retrieval.given import as_allowed, as_array, as_source
from dat_rec.retrieval.item_table import ID, Source, read_columns
from dat_rec.retrieval.lists import list_schema, vectors_table
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
from dat_rec.storage.address import Location
from dat_rec.storage.snapshot import local_copy, pinned

Ints = NDArray[np.int64]
SIMILAR_ID = "similar_item_id"


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
    def open(path: Location) -> "Recommender":
        """Read an export; of one in a store, its files are copied to TMPDIR meanwhile.

        Of several ranks that see the same files each checks some of them.

        Args:
            path: folder that ``dat_rec.export`` made, or its address.

        Raises:
            UserError: no export, one of another version, or a file that is missing or damaged.
        """
        where = pinned(path, MANIFEST)
        rank, ranks = rank_and_ranks() if isinstance(path, Path) else (0, 1)
        with local_copy(where, MANIFEST) as local:
            manifest = read_manifest(local)
            check_files(local, manifest, rank, ranks)
            export = Export.read(local, manifest.features, manifest.dense, manifest.ann)
        return Recommender(where, export, manifest)

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
        query_BD = query_vectors(self.export, rows, users_at_once(self.export, k))
        schema = list_schema("user_id", ids.type, ID, self.item_ids.type)
        blocks = user_lists(
            self.export, query_BD, k, rules, own, blend_history=blend_history, exact=exact
        )
        tables = [block.table(ids, self.item_ids, schema) for block in blocks]
        return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()

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
        return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()

    def vectors(self, users: Ids | None = None) -> pa.Table:
        """The vectors of users, whose inner products with item vectors are the scores.

        Args:
            users: ids; None: all users of the export.

        Returns:
            user_id, and vector, D float32.

        Raises:
            UserError: an id is not what it must be.
        """
        ids = self._ids(users)
        rows = user_rows(self.export, ids)
        return vectors_table(ids, query_vectors(self.export, rows, users_at_once(self.export, 1)))

    def item_rules(self, wanted: Restrictions) -> ItemRules:
        """What restrictions mean for all users alike; errors are those of ``ItemRules.of``."""
        return ItemRules.of(self.where, self.item_ids, wanted)

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
        seen = self._seen() if wanted.exclude_seen else None
        return UserRules(rows, seen, numbers, excluded, per_user)

    def item_rows(self, items: Ids | None) -> Ints:
        """(B,) item_index of ids; None: of all items.

        Raises:
            UserError: one is of no item.
        """
        if items is None:
            return np.arange(len(self.item_ids))
        ids = as_ids("items", ID, as_array(items, "items"), self.item_ids.type, ID)
        found = pc.index_in(ids, value_set=self.item_ids)
        if found.null_count:
            unknown = ids.filter(found.is_null())[0].as_py()
            raise UserError(f"items: the export has no item {json.dumps(unknown)}: leave it out")
        rows: Ints = found.to_numpy().astype(np.int64)
        return rows

    def _seen(self) -> ItemsOfUsers:
        """What the export's users had in training."""
        names = sorted(name for name in self.manifest.sha256 if name.startswith(f"{SEEN_PARTS}/"))
        if not names:
            raise UserError(
                f"{self.where} does not hold what users had in training, which --exclude-seen "
                "leaves out: export anew, or name a file of pairs by --exclude"
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


def _with_category(quotas: Mapping[str, int] | None, per_category: int | None) -> dict[str, int]:
    if not isinstance(quotas, Mapping | None):
        raise UserError(f"quotas: is {type(quotas).__name__}: give a dict, as {{'category': 3}}")
    of_category = {} if per_category is None else {"category": per_category}
    return {**(quotas or {}), **of_category}
