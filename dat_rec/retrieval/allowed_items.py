"""Query vectors and what each user may be shown in, the K best of these items out: exact.

All items that a user may be shown are scored, block by block; nothing is taken off a list that was
cut before. Scores, and the order of equal ones, are those of ``dat_rec.retrieval.search``: a
float32 product finds the candidates, whose scores are computed once more in float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dat_rec.retrieval.ranks import Threads
from dat_rec.retrieval.search import ROUNDING, exact_scores

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

USERS_AT_ONCE, ITEMS_AT_ONCE = 64, 2**15
"""Maximum rows and columns of a block of scores; each thread has one."""
RESCORED = 2**16
"""Maximum number of candidates whose vectors are in memory as float64 at a time."""
NOTHING = np.float32(-np.inf)
"""Score of what may not be shown."""
NO_ITEMS: tuple[Ints, Floats] = (np.empty(0, np.int64), np.empty(0, np.float32))


class Asked(NamedTuple):
    """One user, and what may be in the list."""

    query_D: Floats
    excluded: Ints
    """item_index, rising, each once."""
    own: tuple[Ints, Floats] = NO_ITEMS
    """What own history adds: item_index, rising, and a number of 0 or more for each."""
    passing_N: Flags | None = None
    """Which items of the catalogue may be shown; None: all."""
    full: tuple[frozenset[int], ...] = ()
    """For each of the ``codes`` of ``best_allowed``, those whose items may not be shown."""


def best_allowed(
    item_ND: Floats,
    asked: Sequence[Asked],
    k: int,
    threads: Threads,
    *,
    allowed: Ints | None = None,
    codes: Sequence[NDArray[np.int32]] = (),
) -> list[tuple[Ints, Floats]]:
    """The K items with the highest scores for each user, of those that may be shown.

    Args:
        item_ND: (N, D) vectors of the catalogue.
        asked: B users.
        k: K; of a user who may be shown fewer items, all of them are found.
        threads: that compute side by side, each its own products.
        allowed: (M,) item_index of items that may be shown, rising; None: all.
        codes: (N,) each: a property of items, of which a user may not be shown some.

    Returns:
        For each user item_index and float32 scores, falling; of equal ones the lower index first.
    """
    found = [NO_ITEMS] * len(asked)
    query_BD = torch.from_numpy(
        np.stack([one.query_D for one in asked])
        if asked
        else np.empty((0, item_ND.shape[1]), np.float32)
    )
    total = len(item_ND) if allowed is None else len(allowed)
    for start in range(0, total, ITEMS_AT_ONCE):
        stop = min(total, start + ITEMS_AT_ONCE)
        rows_C = np.arange(start, stop) if allowed is None else allowed[start:stop]
        vectors = item_ND[start:stop] if allowed is None else item_ND[rows_C]
        item_CD = torch.from_numpy(np.ascontiguousarray(vectors))

        def score(first: int, rows_C: Ints = rows_C, item_CD: torch.Tensor = item_CD) -> None:
            scores_BC = (query_BD[first : first + USERS_AT_ONCE] @ item_CD.T).numpy()
            for user, score_C in enumerate(scores_BC, first):
                left_C, added_C = _left(asked[user], rows_C, score_C, codes)
                found[user] = _better(item_ND, asked[user], found[user], k, rows_C, left_C, added_C)

        threads.map(score, range(0, len(asked), USERS_AT_ONCE))
    return found


def _left(
    user: Asked, rows_C: Ints, score_C: Floats, codes: Sequence[NDArray[np.int32]]
) -> tuple[Floats, Floats | None]:
    """(C,) rough scores of a block, −∞ of what may not be shown, and what own history adds.

    Args:
        user: who is asked.
        rows_C: the block's item_index, rising.
        score_C: rough scores, which are changed.
        codes: as of ``best_allowed``.
    """
    added_C = None
    of_block, places = _in_block(user.own[0], rows_C)
    if len(places):
        added_C = np.zeros(len(rows_C), np.float32)
        added_C[places] = user.own[1][of_block]
        score_C += added_C
    score_C[_in_block(user.excluded, rows_C)[1]] = NOTHING
    if user.passing_N is not None:
        score_C[~user.passing_N[rows_C]] = NOTHING
    for code_N, full in zip(codes, user.full, strict=False):
        if full:
            score_C[np.isin(code_N[rows_C], np.array(sorted(full), np.int32))] = NOTHING
    return score_C, added_C


def _in_block(items: Ints, rows_C: Ints) -> tuple[Ints, Ints]:
    """Which of ``items`` are in a block, and their places there; both rise."""
    first, last = np.searchsorted(items, [rows_C[0], rows_C[-1] + 1])
    places = np.searchsorted(rows_C, items[first:last])
    here = np.flatnonzero(rows_C[places] == items[first:last])
    return first + here, places[here]


def _better(
    item_ND: Floats,
    user: Asked,
    found: tuple[Ints, Floats],
    k: int,
    rows_C: Ints,
    score_C: Floats,
    added_C: Floats | None,
) -> tuple[Ints, Floats]:
    """The K best of those found before and a block's."""
    most = 1 + (0 if added_C is None else float(added_C.max()))

    def least(score: np.float32) -> float:
        """What a rough score is at least whose exact one may be as good."""
        return float(score) - ROUNDING * (most + abs(float(score)))

    before, scores = found
    near = np.flatnonzero(score_C > NOTHING)
    if len(before) == k:
        near = near[score_C[near] >= least(scores[-1])]
    if len(near) > k:
        near = near[score_C[near] >= least(np.partition(score_C[near], -k)[-k])]
    if not len(near):
        return found
    query_1D, near_1C = user.query_D[None], rows_C[near][None]
    parts = (near_1C[:, start : start + RESCORED] for start in range(0, len(near), RESCORED))
    exact = np.concatenate([exact_scores(item_ND, query_1D, part)[0] for part in parts])
    if added_C is not None:
        exact = exact + added_C[near]
    items, scores = np.concatenate([before, rows_C[near]]), np.concatenate([scores, exact])
    order = np.lexsort((items, -scores))[:k]
    return items[order], scores[order]
