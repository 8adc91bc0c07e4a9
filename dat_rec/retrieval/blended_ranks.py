"""A user's scores in, the ranks of the user's queries with own history blended in out.

Only the user's own items have another score than the model's. So a rank is a count among the new
items, which is the same under every blend but for the target, and one among the own.

Shapes: S blends, Q queries, P training pairs of the users who are asked; of one user M queries,
C trained items of this rank, O own items.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dat_rec.retrieval.blend import Blend, Floats, Ints, Past, bonus
from dat_rec.retrieval.divided import Messages
from dat_rec.retrieval.protocol import Protocol

Scores = NDArray[np.float32]


class BlendedRanks:
    """Counts the items above every query's, under each of several blends.

    Args:
        protocol: the queries.
        past: the interactions of ``protocol.seen_item``.
        blends: S of them.
        messages: between the ranks, each of which counts among its items.
    """

    def __init__(
        self, protocol: Protocol, past: Past, blends: Sequence[Blend], messages: Messages
    ) -> None:
        self._protocol = protocol
        self._blends = blends
        self._strength = {blend.half_life: past.strength(blend.half_life) for blend in blends}
        self._messages = messages
        self._trained, self._others = np.zeros((2, len(blends), len(protocol.user_row)))

    def count(
        self,
        user: int,
        queries: Ints,
        target_M: Scores,
        trained_C: Scores,
        place_O: NDArray[np.int32],
        other_scores: Scores,
    ) -> None:
        """Count for one user.

        Args:
            user: row of users.parquet.
            queries: (M,) their numbers.
            target_M: the model's score of each one's item.
            trained_C: scores of this rank's trained items.
            place_O: where among them each of the user's own items stands; −1 for another rank's.
            other_scores: of this rank's items without training.
        """
        here = place_O >= 0
        own_O = trained_C[place_O[here]]
        new = np.sort(np.delete(trained_C, place_O[here]))
        others = np.sort(other_scores)
        pairs = self._protocol.seen_slice(user).start + np.flatnonzero(here)
        asked = self._protocol.own_pair[queries]
        known = asked >= 0
        for number, blend in enumerate(self._blends):
            strength = self._strength[blend.half_life]
            target = target_M.copy()
            target[known] += bonus(blend.weight, strength[asked[known]])
            own = np.sort(own_O + bonus(blend.weight, strength[pairs]))
            self._trained[number, queries] = _above(new, target) + _above(own, target)
            self._others[number, queries] = _above(others, target)

    def ranks(self) -> tuple[Floats, Floats]:
        """Return the ranks, when all users have been counted. Collective.

        Returns:
            (S, Q) among the trained items, and (S, Q) among all; as if every query had one.
        """
        trained, others = self._messages.add_up(np.stack([self._trained, self._others]))
        return 0.5 + trained, 0.5 + trained + others


def _above(rising: Scores, targets: Scores) -> Floats:
    """Members of the pool above each target, plus half of those equal to it."""
    ends = np.searchsorted(rising, targets, "right") + np.searchsorted(rising, targets, "left")
    return np.asarray(len(rising) - ends / 2)
