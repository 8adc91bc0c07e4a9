"""Each user's best items in, what the lists show as a whole out: coverage and popularity.

A list holds the K trained items that score highest for a user, without those of the user's
training. Of equal scores the item that stands first in the catalogue goes first, as in
``dat-rec recommend``: a list is what a user is shown, and shows one order.

Coverage@K is the share of the trained items that any asked user's list shows (aggregate
diversity; Adomavicius and Kwon, "Improving aggregate recommendation diversity using ranking-based
techniques", TKDE 2012). ARP@K, average recommendation popularity, is the mean over users of the
mean number of training interactions of the items in their lists (Yin et al., "Challenging the long
tail recommendation", VLDB 2012): MostPop's is the highest, and a lower one shows more of the tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.divided import ALONE, Messages
from dat_rec.retrieval.protocol import Protocol

Ints = NDArray[np.int64]
NOTHING = np.float32(-np.inf)
"""Score of what is not in a list."""


@dataclass(frozen=True)
class Lists:
    """The best items of B users, best first, at most K."""

    item_BK: NDArray[np.int32]
    """item_index; −1 behind the end of a list that is shorter than K."""
    score_BK: NDArray[np.float32]
    """Score of each, −∞ behind the end."""

    @property
    def longest(self) -> int:
        """K."""
        return int(self.item_BK.shape[1])

    def put(self, row: int, items: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        """Fill one user's list."""
        self.item_BK[row, : len(items)] = items
        self.score_BK[row, : len(items)] = scores


def best(
    score_C: NDArray[np.float32],
    own: NDArray[np.int32],
    item_C: NDArray[np.int32],
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The K best of one user's candidates, and their scores; of equal ones the first.

    Args:
        score_C: (C,) of each candidate.
        own: places, among the candidates, of those that do not count.
        item_C: (C,) the candidates' item_index, rising.
        k: K.
    """
    left_C = score_C.copy()
    left_C[own] = NOTHING
    chosen = np.arange(len(left_C))
    if len(left_C) > k:
        chosen = np.flatnonzero(left_C >= np.partition(left_C, -k)[-k])
    chosen = chosen[left_C[chosen] > NOTHING]
    chosen = chosen[np.argsort(-left_C[chosen], kind="stable")[:k]]
    return item_C[chosen], left_C[chosen]


class TopLists:
    """Takes users' lists, and says at the end what they show.

    Args:
        protocol: the queries: every user who is asked has a list.
        cutoffs: the Ks.
        messages: between the ranks, each of which brings the best of its items.
    """

    def __init__(
        self, protocol: Protocol, cutoffs: Sequence[int], messages: Messages = ALONE
    ) -> None:
        self._cutoffs = tuple(cutoffs)
        self._longest = min(max(cutoffs), protocol.trained_items)
        self._popularity = protocol.train_count[: protocol.trained_items]
        self._shown = np.zeros((len(self._cutoffs), protocol.trained_items), np.bool_)
        self._mean = np.full((len(self._cutoffs), len(protocol.users)), np.nan)
        self._messages = messages

    def empty(self, users: int) -> Lists:
        """Return lists of so many users, to be filled."""
        shape = (users, self._longest)
        return Lists(np.full(shape, -1, np.int32), np.full(shape, NOTHING, np.float32))

    def add(self, users: Ints, lists: Lists) -> None:
        """Take the lists of some users. Collective.

        Args:
            users: (B,) their numbers in ``protocol.users``.
            lists: the best of this rank's items for each.
        """
        item_BK = self._merged(lists)
        count_BK = np.where(item_BK >= 0, self._popularity[item_BK], 0)
        for number, k in enumerate(self._cutoffs):
            listed = item_BK[:, :k] >= 0
            self._shown[number, item_BK[:, :k][listed]] = True
            with np.errstate(invalid="ignore"):
                self._mean[number, users] = count_BK[:, :k].sum(axis=1) / listed.sum(axis=1)

    def _merged(self, lists: Lists) -> NDArray[np.int32]:
        """(B, K) the best items of all ranks' lists."""
        item_RBK = self._messages.gather(lists.item_BK[None])
        if len(item_RBK) == 1:
            return lists.item_BK
        score_RBK = self._messages.gather(lists.score_BK[None])
        users = len(lists.item_BK)
        item_BC = item_RBK.transpose(1, 0, 2).reshape(users, -1)
        score_BC = score_RBK.transpose(1, 0, 2).reshape(users, -1)
        order = np.lexsort((item_BC, -score_BC), axis=1)[:, : self._longest]
        return np.take_along_axis(item_BC, order, 1)

    def figures(self) -> dict[str, Any]:
        """``Coverage@K`` and ``ARP@K`` for each K, and ``users``: how many have a list.

        ARP is None where nobody has one: each has all trained items already.
        """
        mean = {}
        for k, of_users in zip(self._cutoffs, self._mean, strict=True):
            known = of_users[~np.isnan(of_users)]
            mean[f"ARP@{k}"] = float(np.mean(known)) if len(known) else None
        coverage = zip(self._cutoffs, self._shown, strict=True)
        return {
            **{f"Coverage@{k}": float(np.mean(shown)) for k, shown in coverage},
            **mean,
            "users": int(np.count_nonzero(~np.isnan(self._mean[0]))),
        }
