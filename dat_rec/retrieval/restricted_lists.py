"""Users or items in, and what their lists may hold, their lists out, block by block."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.allowed_items import Asked, best_allowed
from dat_rec.retrieval.answer import best_items, query_vectors, users_at_once
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.few_queries import FEW
from dat_rec.retrieval.lists import Lists
from dat_rec.retrieval.quotas import within_quotas
from dat_rec.retrieval.ranks import one_thread_each
from dat_rec.retrieval.restrictions import ItemRules, UserRules

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
MASK_BYTES = 256 * 2**20
"""Maximum bytes of what a per-user filter says of a block of users; one user's are the least."""
LONGER = 2048
"""Maximum length of lists that are made longer by as many items as may be left out of them."""


def user_lists(
    export: Export,
    query_BD: Floats,
    k: int,
    rules: ItemRules,
    own: UserRules,
    *,
    blend_history: bool,
) -> Iterator[Lists]:
    """The lists of B users.

    Args:
        export: whose items.
        query_BD: the users' vectors.
        k: K, at most the number of items.
        rules: for all of them.
        own: for each of them.
        blend_history: whether own history is blended in, which the export can.
    """
    block = users_at_once(export, k)
    if own.per_user is not None:
        block = min(block, max(1, MASK_BYTES // len(export.item_vectors)))
    all_alike = rules.allowed is None and not rules.quotas
    free = all_alike and not own.restrict
    few = all_alike and own.per_user is None and len(query_BD) <= FEW
    for start in range(0, len(query_BD), block):
        users = range(start, min(len(query_BD), start + block))
        part = slice(users.start, users.stop)
        if free:
            found = best_items(
                export, own.rows[part], query_BD[part], k, blend_history=blend_history
            )
            yield Lists(start, list(zip(*found, strict=True)))
        else:
            asked = own.asked(export, users, query_BD[part], blend_history=blend_history)
            lists = _few_left_out(export, own, users, asked, k, blend_history) if few else None
            lists = lists or _restricted(export, asked, k, rules)
            del asked  # A block's masks are not in memory beside the next one's.
            yield Lists(start, lists)


def similar_lists(export: Export, rows: Ints, k: int, rules: ItemRules) -> Iterator[Lists]:
    """The lists of B items: those nearest to each, itself left out.

    Args:
        export: whose items.
        rows: (B,) item_index.
        k: K, less than the number of items.
        rules: what may stand in the lists.
    """
    block, popularity = users_at_once(export, k), _has_popularity(export)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        query_BD = np.array(export.item_vectors[part])
        if popularity:
            query_BD[:, -1] = 0
        asked = [Asked(query_D, row) for query_D, row in zip(query_BD, part[:, None], strict=True)]
        yield Lists(start, _restricted(export, asked, k, rules))


def _restricted(
    export: Export, asked: Sequence[Asked], k: int, rules: ItemRules
) -> list[tuple[Ints, Floats]]:
    codes = [quota.code_N for quota in rules.quotas]
    with one_thread_each() as threads:

        def search(asked: Sequence[Asked], k: int) -> list[tuple[Ints, Floats]]:
            return best_allowed(
                export.item_vectors, asked, k, threads, allowed=rules.allowed, codes=codes
            )

        return within_quotas(search, asked, k, rules.quotas) if codes else search(asked, k)


def _few_left_out(
    export: Export,
    own: UserRules,
    users: range,
    asked: Sequence[Asked],
    k: int,
    blend_history: bool,
) -> list[tuple[Ints, Floats]] | None:
    """Lists of a few users, without the items that are left out; None where these are many.

    The best K + E items are found, of which E may be left out: none that counts is cut off before.
    """
    longest = min(len(export.item_vectors), k + max(len(one.excluded) for one in asked))
    if longest > LONGER:
        return None
    query_BD = np.stack([one.query_D for one in asked])
    rows = own.rows[users.start : users.stop]
    found = zip(
        *best_items(export, rows, query_BD, longest, blend_history=blend_history), strict=True
    )
    lists = []
    for (items, scores), one in zip(found, asked, strict=True):
        kept = np.flatnonzero(~np.isin(items, one.excluded))[:k]
        lists.append((items[kept], scores[kept]))
    return lists


def _has_popularity(export: Export) -> bool:
    """Whether a number behind the unit vectors says what popularity adds to scores.

    Users' vectors have a 1 there, and a unit vector that ends in 1 has zeros before it.
    """
    unknown = query_vectors(export, np.array([len(export.user_ids)]), 1)[0]
    return bool(unknown[-1] == 1 and unknown[:-1].any())
