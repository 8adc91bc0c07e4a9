"""Average each step's loss terms over ranks; stop training if one is not finite, or explodes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dat_rec.errors import SharedError
from dat_rec.training.objective import TERMS

LARGEST = 1e6
"""Maximum of a loss term; a larger one has exploded: with unit vectors none comes near it."""


class LossWatch:
    """Keeps the loss terms of the steps since the last ``look``, on their device.

    A look is a collective and waits for the device, so it is done only where the run logs or saves;
    no checkpoint is written before a look.

    Args:
        examples: returns the number of examples in a step, whose number counts from 1.
        window: number of steps; ``mean`` is over the last one or two windows.
    """

    def __init__(self, examples: Callable[[int], int] = lambda _: 1, window: int = 1) -> None:
        self._examples = examples
        self._window = window
        self._terms: list[Tensor] = []
        self._main: list[float] = []
        self._sums = _no_sums(), _no_sums()

    def add(self, terms: Tensor) -> None:
        """Keep one step's terms on this rank, in the order of ``TERMS``."""
        self._terms.append(terms)

    def look(
        self, step: int, where: Callable[[int], str], cure: Callable[[], str]
    ) -> dict[str, float]:
        """Return the last step's terms by name, mean over ranks.

        Args:
            step: number (from 1) of the step that was added last.
            where: says which examples the global batch of a step (from 1) holds.
            cure: says which options to change and which checkpoint to return to.

        Raises:
            SharedError: a term was not finite, or exploded, since the last look. The message names
                the first such step and its examples.
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
        for number, values in enumerate(terms_ST.tolist(), step - len(terms_ST) + 1):
            self._sum(number, values)
        self._main += terms_ST[:, 0].tolist()
        return dict(zip(TERMS, terms_ST[-1].tolist(), strict=True))

    def mean_main(self) -> float:
        """Return the main loss, mean over the steps that were looked at since the last call."""
        main, self._main = self._main, []
        return sum(main) / len(main)

    def _sum(self, step: int, values: Sequence[float]) -> None:
        before, now = self._sums
        if (step - 1) % self._window == 0:
            before, now = now, _no_sums()
        examples = self._examples(step)
        terms = [sums + examples * value for sums, value in zip(now.terms, values, strict=True)]
        self._sums = before, _Sums(now.steps + 1, now.examples + examples, terms)

    def mean(self) -> tuple[dict[str, float], int]:
        """Return every term's mean over the examples of the last steps that were looked at.

        Returns:
            The means by term, and the number of steps: those of the last two windows, of which the
            last one may be incomplete. ({}, 0) before the first step.
        """
        steps, examples = (
            sum(part) for part in zip(*((s.steps, s.examples) for s in self._sums), strict=True)
        )
        if not steps:
            return {}, 0
        totals = zip(*(sums.terms for sums in self._sums), strict=True)
        means = [sum(pair) / examples for pair in totals]
        return dict(zip(TERMS, means, strict=True)), steps

    def state(self) -> list[dict[str, Any]]:
        """Return the sums that ``mean`` is computed from, as JSON values."""
        return [asdict(sums) for sums in self._sums]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from the sums that ``state`` returned."""
        before, now = (_Sums(**part) for part in state)
        self._sums = before, now


@dataclass(frozen=True)
class _Sums:
    """Sums over the steps of a window."""

    steps: int
    examples: int
    terms: list[float]
    """Sum of each term times the step's examples."""


def _no_sums() -> _Sums:
    return _Sums(0, 0, [0.0] * len(TERMS))


def _words(values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(TERMS, values, strict=True))
