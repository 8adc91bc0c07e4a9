"""Users or items in, and what their lists may hold, their lists out, block by block."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.allowed_items import NO_ITEMS, Asked, best_allowed
from dat_rec.retrieval.answer import approximate, best_items, query_vectors, users_at_once
from dat_rec.retrieval.approximate.ann_index import Ann
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.few_queries import FEW
from dat_rec.retrieval.lists import Lists
from dat_rec.retrieval.quotas import within_quotas
from dat_rec.retrieval.ranks import one_thread_each
from dat_rec.retrieval.restrictions import ItemRules, UserRules
from dat_rec.retrieval.search import blended_items

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
    exact: bool = False,
) -> Iterator[Lists]:
    """The lists of B users.

    By the export's approximate index, if it has one: where all items may be shown, or all but
    some of each user's. All else is exact.

    Args:
        export: whose items.
        query_BD: the users' vectors.
        k: K, at most the number of items.
        rules: for all of them.
        own: for each of them.
        blend_history: whether own history is blended in, which the export can.
        exact: score all items, whatever the export has.
    """
    block = users_at_once(export, k)
    if own.per_user is not None:
        block = min(block, max(1, MASK_BYTES // len(export.item_vectors)))
    all_alike = not _restricts(rules)
    free = all_alike and not own.restrict
    few = all_alike and own.per_user is None and len(query_BD) <= FEW
    ann = ann_of_users(export, k, rules, own, exact=exact)
    for start in range(0, len(query_BD), block):
        users = range(start, min(len(query_BD), start + block))
        part = slice(users.start, users.stop)
        if free:
            found = best_items(
                export,
                own.rows[part],
                query_BD[part],
                k,
                blend_history=blend_history,
                exact=exact,
            )
            yield Lists(start, list(zip(*found, strict=True)))
        else:
            asked = own.asked(export, users, query_BD[part], blend_history=blend_history)
            lists: list[tuple[Ints, Floats]] | None = None
            if ann:
                lists = _all_but_some(export, ann, asked, k, rules)
            elif few:
                lists = _few_left_out(export, own, users, asked, k, blend_history)
            if lists is None:
                lists = _restricted(export, asked, k, rules)
            del asked  # A block's masks are not in memory beside the next one's.
            yield Lists(start, lists)


def ann_of_users(
    export: Export, k: int, rules: ItemRules, own: UserRules, *, exact: bool = False
) -> Ann | None:
    """The approximate index by which users' lists are found; None: all items are scored."""
    if _restricts(rules) or own.per_user is not None:
        return None
    return approximate(export, k, exact=exact)


def ann_of_items(export: Export, k: int, rules: ItemRules, *, exact: bool = False) -> Ann | None:
    """The same of similar items, for which it may not have reached its recall."""
    ann = approximate(export, k + 1, exact=exact)
    return ann if ann and ann.facts.similar_effort and not _restricts(rules) else None


def similar_lists(
    export: Export, rows: Ints, k: int, rules: ItemRules, *, exact: bool = False
) -> Iterator[Lists]:
    """The lists of B items: those nearest to each, itself left out.

    By the export's approximate index where ``ann_of_items`` gives it.

    Args:
        export: whose items.
        rows: (B,) item_index.
        k: K, less than the number of items.
        rules: what may stand in the lists.
        exact: score all items, whatever the export has.
    """
    ann = ann_of_items(export, k, rules, exact=exact)
    block, popularity = users_at_once(export, k), _has_popularity(export)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        query_BD = np.array(export.item_vectors[part])
        if popularity:
            query_BD[:, -1] = 0
        if ann and (effort := ann.facts.similar_effort):
            found = zip(*ann.index.top_items(query_BD, k + 1, effort), part, strict=True)
            lists = [_without(items, scores, [row], k) for items, scores, row in found]
        else:
            pairs = zip(query_BD, part[:, None], strict=True)
            asked = [Asked(query_D, row) for query_D, row in pairs]
            lists = _restricted(export, asked, k, rules)
        yield Lists(start, lists)


def _restricts(rules: ItemRules) -> bool:
    """Whether some items may be shown to nobody, or only with others."""
    return rules.allowed is not None or bool(rules.quotas)


def _all_but_some(
    export: Export, ann: Ann, asked: Sequence[Asked], k: int, rules: ItemRules
) -> list[tuple[Ints, Floats]]:
    """The lists of users who may be shown all items but some, by the approximate index.

    Each is searched for K items and as many more as are left out, so that K remain. Users with
    about as many are searched for together; those with too many for the index exactly.
    """
    step = max(1, k // 4)
    more = np.array([-(-len(one.excluded) // step) * step for one in asked], np.int64)
    wanted = np.minimum(k + more, len(export.item_vectors))
    lists = [NO_ITEMS] * len(asked)
    for fetch in np.unique(wanted).tolist():
        users = np.flatnonzero(wanted == fetch).tolist()
        group = [asked[user] for user in users]
        if ann.index.reaches(fetch):
            query_BD = np.stack([one.query_D for one in group])
            best = ann.index.top_items(query_BD, fetch, ann.facts.users_effort)
            best = blended_items(export.item_vectors, query_BD, best, [one.own for one in group])
            found = [
                _without(items, scores, one.excluded, k)
                for items, scores, one in zip(*best, group, strict=True)
            ]
        else:
            found = _restricted(export, group, k, rules)
        for user, found_list in zip(users, found, strict=True):
            lists[user] = found_list
    return lists


def _without(
    items: Ints, scores: Floats, excluded: Ints | Sequence[int], k: int
) -> tuple[Ints, Floats]:
    """The first K items of a list that are not excluded."""
    kept = np.flatnonzero(~np.isin(items, excluded))[:k]
    return items[kept], scores[kept]


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
    best = best_items(export, rows, query_BD, longest, blend_history=blend_history, exact=True)
    return [
        _without(items, scores, one.excluded, k)
        for items, scores, one in zip(*best, asked, strict=True)
    ]


def _has_popularity(export: Export) -> bool:
    """Whether a number behind the unit vectors says what popularity adds to scores.

    Users' vectors have a 1 there, and a unit vector that ends in 1 has zeros before it.
    """
    unknown = query_vectors(export, np.array([len(export.user_ids)]), 1)[0]
    return bool(unknown[-1] == 1 and unknown[:-1].any())
