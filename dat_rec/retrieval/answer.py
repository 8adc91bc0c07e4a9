"""Ids of users in, their vectors and best items out: what an export answers, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.approximate.ann_index import Ann
from dat_rec.retrieval.distinct import encode_once
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.option_names import OPTIONS
from dat_rec.retrieval.search import SPARE, blended_items, top_items
from dat_rec.storage.address import Location

BLOCK_BYTES = 64 * 2**20
"""Maximum bytes of candidate vectors in memory at a time; one user's are the least."""
MOST_USERS = 4096
"""Maximum number of users in a block."""
K = 100
"""Number of items for each user where none is given."""

UserIds = Sequence[int] | Sequence[str] | NDArray[Any]


class Recommendations(NamedTuple):
    """The K best items of each of B users, best first; of equal scores the catalogue's first."""

    item_ids: NDArray[Any]
    """(B, K) int64, or str objects where the log's ids are text."""
    scores: NDArray[np.float32]
    """(B, K) inner products, falling; with own history blended in, what it adds included."""


@dataclass(frozen=True)
class LoadedExport:
    """An export in memory, read back and checked: N items, U users, vectors D wide."""

    item_ids: NDArray[Any]
    """(N,) int64, or str objects where the log's ids are text; row = item_index."""
    item_vectors: NDArray[np.float32]
    """(N, D) unit vectors, and what popularity adds behind them; row = item_index."""
    user_ids: NDArray[Any]
    """(U,) the users that the export knows."""
    _export: Export

    def query_vectors(self, user_ids: UserIds) -> NDArray[np.float32]:
        """The vectors of users, as of the split; an unknown id has that of a user without a past.

        Args:
            user_ids: B ids of the kind that the log has: integers, or text.

        Returns:
            (B, D) float32: unit vectors, with a 1 behind them where popularity has a weight.

        Raises:
            UserError: the ids are of another kind, or one is missing.
        """
        rows = self._rows(user_ids)
        return query_vectors(self._export, rows, MOST_USERS)

    def recommend(
        self, user_ids: UserIds, k: int = K, *, blend_history: bool = False, exact: bool = False
    ) -> Recommendations:
        """The K best items of each user, of the whole catalogue, what they have already included.

        Args:
            user_ids: B ids of the kind that the log has: integers, or text.
            k: K, at most N.
            blend_history: rank with each user's own history blended in.
            exact: score all items, also where the export has an approximate index.

        Raises:
            UserError: K is not in 1 … N, the ids are of another kind, one is missing, or the
                export has no own items to blend in.
        """
        check_k(k, len(self.item_ids))
        if blend_history:
            check_own_items(self._export)
        rows = self._rows(user_ids)
        items_BK = np.empty((len(rows), k), np.int64)
        scores_BK = np.empty((len(rows), k), np.float32)
        block = users_at_once(self._export, k)
        query_BD = query_vectors(self._export, rows, block)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            items_BK[part], scores_BK[part] = best_items(
                self._export,
                rows[part],
                query_BD[part],
                k,
                blend_history=blend_history,
                exact=exact,
            )
        return Recommendations(self.item_ids[items_BK], scores_BK)

    def _rows(self, user_ids: UserIds) -> NDArray[np.int64]:
        wanted = self._export.user_ids.type
        try:
            ids = pa.array(list(user_ids), from_pandas=True)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise UserError(f"user ids ({error}): give {wanted} alone") from error
        if pa.types.is_null(ids.type):
            ids = ids.cast(wanted)
        of_text = pa.types.is_string(wanted) or pa.types.is_large_string(wanted)
        fits = pa.types.is_string(ids.type) if of_text else pa.types.is_integer(ids.type)
        if len(ids) and ids.null_count < len(ids) and not fits:
            raise UserError(f"user ids are {ids.type}, the export's are {wanted}: give such ids")
        if ids.null_count:
            raise UserError("a user id is missing: leave it out")
        try:
            return user_rows(self._export, ids.cast(wanted))
        except pa.ArrowInvalid as error:
            raise UserError(f"user ids ({error}): give {wanted} alone") from error


def load_export(path: Location) -> LoadedExport:
    """Load an export, to ask it for vectors and items in this process.

    Every file is compared with its SHA-256 first. The query tower runs by torch alone, on CPU.

    Args:
        path: folder that ``dat_rec.export`` made, or its address.

    Raises:
        UserError: no export, one of another version, or a file that is missing or damaged.

    Example:
        >>> loaded = dat_rec.load_export(Path("export"))
        >>> loaded.item_vectors.shape
        (100, 33)
        >>> best = loaded.recommend(loaded.user_ids[:3], k=5)
        >>> best.item_ids.shape, best.scores.shape
        ((3, 5), (3, 5))
        >>> loaded.query_vectors([0, 1]).shape
        (2, 33)
    """
    export = Export.open(path)
    item_ids = export.items.column("item_id").combine_chunks()
    return LoadedExport(
        item_ids=item_ids.to_numpy(zero_copy_only=False),
        item_vectors=export.item_vectors,
        user_ids=export.user_ids.to_numpy(zero_copy_only=False),
        _export=export,
    )


def check_k(k: int, items: int, name: str = "k") -> None:
    """Refuse a number of items that a catalogue cannot give.

    Raises:
        UserError: names the option, its value and what it may be.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise UserError(f"{name} is {k!r}: it must be a whole number")
    if not 1 <= k <= items:
        raise UserError(f"{name} is {k}: it must be 1 or more, and at most the {items} items")


def check_own_items(
    export: Export, where: Location | str = "the export", option: str = OPTIONS.blend_history
) -> None:
    """Refuse an export that cannot blend own history in.

    Raises:
        UserError: names the cure.
    """
    if export.own is None:
        raise UserError(
            f"{where} has no own items, which {option} adds to the scores: make it with "
            "`dat-rec export --blend-history`, or leave it out"
        )


def best_items(
    export: Export,
    rows: NDArray[np.int64],
    query_BD: NDArray[np.float32],
    k: int,
    *,
    blend_history: bool,
    exact: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The K best items of B users, and their scores.

    Args:
        export: of ``check_own_items``, if own history is blended in.
        rows: (B,) the users' rows in ``export.user_columns``.
        query_BD: their vectors.
        k: K, at most the number of items.
        blend_history: whether it is.
        exact: whether all items are scored, also where there is an approximate index.

    Returns:
        (B, K) item_index and (B, K) float32, as ``top_items``.
    """
    if ann := approximate(export, k, exact=exact):
        best = ann.index.top_items(query_BD, k, ann.facts.users_effort)
    else:
        best = top_items(export.few, export.item_vectors, query_BD, k)
    if blend_history and export.own is not None:
        own = [export.own.of(int(row)) for row in rows]
        return blended_items(export.item_vectors, query_BD, best, own)
    return best


def approximate(export: Export, k: int, *, exact: bool) -> Ann | None:
    """The approximate index that lists of so many items come from; None: all items are scored."""
    return export.ann if not exact and export.ann and export.ann.index.reaches(k) else None


def user_rows(export: Export, ids: pa.Array) -> NDArray[np.int64]:
    """(B,) the row of each id in ``export.user_columns``: the last one for an unknown user.

    Args:
        export: whose users.
        ids: (B,) of the type of ``export.user_ids``, without nulls.
    """
    rows = export.rows_of_users.of(ids)
    return np.where(rows < 0, len(export.user_ids), rows)


def users_at_once(export: Export, k: int) -> int:
    """Number of users whose candidates' vectors fit into memory together."""
    bytes_each = 8 * (k + SPARE) * int(export.item_vectors.shape[1])
    return min(MOST_USERS, max(1, BLOCK_BYTES // bytes_each))


def query_vectors(export: Export, rows: NDArray[np.int64], at_once: int) -> NDArray[np.float32]:
    """(B, D) unit vectors of the users in ``rows``; those with equal features are encoded once."""
    if len(rows) == 1:
        return encode_one(export, int(rows[0]))
    return encode_once(export.user_columns, rows, export.tower.encode, at_once, export.alike)


def encode_one(export: Export, row: int) -> NDArray[np.float32]:
    """(1, D) unit vector of the user in a row, whose last bits follow nobody encoded beside."""
    return export.tower.encode_row(export.user_columns, row)
