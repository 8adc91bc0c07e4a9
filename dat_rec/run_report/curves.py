"""A run's TensorBoard files in, its curves out, in few points."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

MOST_POINTS = 240
"""Maximum number of points of a curve: more than a chart has pixels are no use."""

Curve: TypeAlias = Sequence[tuple[float, float]]
"""(step, value), by step."""


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return the curves of a TensorBoard folder by name, those of several starts as one.

    What a start repeats of the one before, from its checkpoint on, counts once: as repeated. Files
    that end in the middle of a point are read up to there.
    """
    if not folder.is_dir():
        return {}
    # Seconds to import.
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found: dict[str, Curve] = {}
    for name in events.Tags()["scalars"]:
        by_step = {event.step: float(event.value) for event in events.Scalars(name)}
        found[name] = thinned(sorted(by_step.items()))
    return found


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Return a curve of at most so many points: means of as many neighbours each, and the last."""
    if len(curve) <= most:
        return list(curve)
    before, each = curve[:-1], -(-(len(curve) - 1) // (most - 1))
    blocks = [before[start : start + each] for start in range(0, len(before), each)]
    means = [(block[-1][0], sum(value for _, value in block) / len(block)) for block in blocks]
    return [*means, curve[-1]]
