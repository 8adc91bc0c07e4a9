"""Each step's loss terms in; their mean over ranks out, or a stop where they went wrong."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dat_rec.errors import UserError
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

    def add(self, terms: Tensor) -> None:
        """Keep one step's terms on this rank, in the order of ``TERMS``."""
        self._terms.append(terms)

    def look(self, step: int, place: str) -> dict[str, float]:
        """The last step's terms, mean over ranks.

        Args:
            step: number (from 1) of the step that was added last.
            place: the options to change and the checkpoint to return to, for the message.

        Raises:
            UserError: on every rank, when a term was not finite or exploded since the last
                look; it names the first such step.
        """
        terms_ST = torch.stack(self._terms)
        dist.all_reduce(terms_ST)
        terms_ST /= dist.get_world_size()
        bad_S = ~(terms_ST.abs() <= LARGEST).all(dim=1)
        if bad_S.any():
            first = int(bad_S.int().argmax())
            raise UserError(
                f"the loss is not finite, or beyond {LARGEST:g}, from step "
                f"{step - len(terms_ST) + 1 + first} on "
                f"({_words(terms_ST[first].tolist())}): {place}"
            )
        self._terms.clear()
        return dict(zip(TERMS, terms_ST[-1].tolist(), strict=True))


def _words(values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(TERMS, values, strict=True))
