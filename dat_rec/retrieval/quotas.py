"""At most so many items of a kind in a list: the best items in, those within the quotas out.

An item is taken, best first, unless its value of a column has been taken as often as the column's
quota says. For one quota no list of K items has a higher sum of scores; with several, that is what
going by rank means, and no more is claimed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.allowed_items import Asked

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
AHEAD = 4
"""How many times K items are looked at in a round: many lists are full after one."""


class Quota(NamedTuple):
    """At most ``most`` items of one code in a list."""

    code_N: NDArray[np.int32]
    """(N,) each item's; those that have no value share one, too."""
    most: int


class _List:
    """A list that is being filled."""

    def __init__(self, quotas: Sequence[Quota]) -> None:
        self.items: list[int] = []
        self.scores: list[np.float32] = []
        self._quotas = quotas
        self._taken: list[Counter[int]] = [Counter() for _ in quotas]

    def fill(self, items: Ints, scores: Floats, k: int) -> None:
        """Take of items, best first, what the quotas let in, up to K."""
        codes = [quota.code_N[items].tolist() for quota in self._quotas]
        for place, item in enumerate(items.tolist()):
            if len(self.items) == k:
                return
            own = [of_items[place] for of_items in codes]
            counts = zip(self._quotas, self._taken, own, strict=True)
            if all(taken[code] < quota.most for quota, taken, code in counts):
                self.items.append(item)
                self.scores.append(scores[place])
                for taken, code in zip(self._taken, own, strict=True):
                    taken[code] += 1

    def full(self) -> tuple[frozenset[int], ...]:
        """For each quota, the codes of which no more are let in."""
        return tuple(
            frozenset(code for code, count in taken.items() if count == quota.most)
            for quota, taken in zip(self._quotas, self._taken, strict=True)
        )


def within_quotas(
    search: Callable[[Sequence[Asked], int], list[tuple[Ints, Floats]]],
    asked: Sequence[Asked],
    k: int,
    quotas: Sequence[Quota],
) -> list[tuple[Ints, Floats]]:
    """The lists of users within quotas.

    A round looks at the best items that are left; kinds that are full are left out of the next.
    So the first item of each further round is taken, and none is looked at twice.

    Args:
        search: the best items of users, so many; of fewer if there are no more.
        asked: B users, without ``full``.
        k: K.
        quotas: in the order of ``full``.

    Returns:
        As ``best_allowed``.
    """
    lists = [_List(quotas) for _ in asked]
    active = list(range(len(asked)))
    while active:
        left = []
        for user in active:
            taken = np.array(sorted(lists[user].items), np.int64)
            excluded = np.union1d(asked[user].excluded, taken)
            left.append(asked[user]._replace(excluded=excluded, full=lists[user].full()))
        found = search(left, AHEAD * k)
        for user, (items, scores) in zip(active, found, strict=True):
            lists[user].fill(items, scores, k)
        active = [
            user
            for user, (items, _) in zip(active, found, strict=True)
            if len(items) == AHEAD * k and len(lists[user].items) < k
        ]
    return [(np.array(one.items, np.int64), np.array(one.scores, np.float32)) for one in lists]
