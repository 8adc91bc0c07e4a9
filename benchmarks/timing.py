"""Steps of several kinds, timed in turn, so that what disturbs the machine disturbs all.

The order of each round is drawn anew: in a fixed one, the kind after the one that takes the most
memory would always find the caches empty.
"""

import gc
import random
import time
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm


def interleaved(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    steps_a_round: int = 1,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a step of each kind: one figure a round, the mean of that round's steps.

    Args:
        steps: by name, what makes one step.
        rounds: how often each has its turn.
        steps_a_round: steps of one kind before it is another's turn.
        warmup: steps of each before the clock starts.
        clock: in seconds; ``time.process_time``, for what computes on one thread, does not count
            what else the machine does.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    # Of several ranks all draw the same.
    order, drawn = list(steps), random.Random(0)
    gc.collect()
    _wait_for_gpu()
    for _ in tqdm(range(rounds), desc="measure", unit="round"):
        drawn.shuffle(order)
        for name in order:
            begin = clock()
            for _ in range(steps_a_round):
                steps[name]()
            _wait_for_gpu()
            times[name].append((clock() - begin) / steps_a_round)
    return times


def _wait_for_gpu() -> None:
    """Until all that was asked of it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(times: Mapping[str, list[float]], over: str, under: str) -> list[float]:
    """Round by round, the seconds of ``over`` divided by those of ``under``."""
    return [a / b for a, b in zip(times[over], times[under], strict=True)]
