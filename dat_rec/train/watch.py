"""Each step's loss terms in; their mean over ranks out, or a stop where they went wrong."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dat_rec.errors import SharedError
from dat_rec.train.objective import TERMS

LARGEST = 1e6
"""A loss term beyond this has exploded: at unit vectors none comes near it."""


class LossWatch:
    """Keeps the terms of the steps since the last look, on their device.

    Looking is a collective, and costs a wait for the device, so it is done only where the
    run logs or saves; no checkpoint is written before a look.
    """

    def __init__(self) -> None:
        self._terms: list[Tensor] = []
        self._main: list[float] = []

    def add(self, terms: Tensor) -> None:
        """Keep one step's terms on this rank, in the order of ``TERMS``."""
        self._terms.append(terms)

    def look(
        self, step: int, where: Callable[[int], str], cure: Callable[[], str]
    ) -> dict[str, float]:
        """The last step's terms, mean over ranks.

        Args:
            step: number (from 1) of the step that was added last.
            where: says which examples the global batch of a step (from 1) holds.
            cure: says which options to change and which checkpoint to return to.

        Raises:
            SharedError: when a term was not finite or exploded since the last look; it names
                the first such step, and its examples.
        """
        terms_ST = torch.stack(self._terms)
        dist.all_reduce(terms_ST)
        terms_ST /= dist.get_world_size()
        bad_S = ~(terms_ST.abs() <= LARGEST).all(dim=1)
        if bad_S.any():
            first = int(bad_S.int().argmax())
            number = step - len(terms_ST) + 1 + first
            raise SharedError(
                f"the loss is not finite, or beyond {LARGEST:g}, from step {number} on "
                f"({_words(terms_ST[first].tolist())}), at {where(number)}: {cure()}"
            )
        self._terms.clear()
        self._main += terms_ST[:, 0].tolist()
        return dict(zip(TERMS, terms_ST[-1].tolist(), strict=True))

    def mean_main(self) -> float:
        """The main loss, mean over the steps that were looked at since the last call."""
        main, self._main = self._main, []
        return sum(main) / len(main)


def _words(values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(TERMS, values, strict=True))
