"""What does it cost to draw negatives, and to give a batch theirs?

    python -m benchmarks.negatives [--items 10000 1000000 50000000]

Draws a second of one thread's own time, by number of items and power of popularity. Then a reader
makes epochs of a planted world with negatives and without, in turn: what is between them is the
negatives' share of a batch's making, of which drawing alone is timed too. The results are JSON
lines, one for each number of items and one for each power's batches.
"""

import itertools
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.record import append, circumstances, percentiles
from benchmarks.timing import interleaved, ratios
from dat_rec.data.dataset import Dataset
from dat_rec.data.negatives import NEGATIVES, NegativeSampler, generator
from dat_rec.data.prepare import prepare
from dat_rec.data.reader import ExampleReader
from dat_rec.data.reader_options import ReaderOptions
from dat_rec.data.sources.synthetic import Synthetic

POWERS = (0.0, 0.5, 1.0)
SKEW = 0.8
"""An item's training count is ∝ 1/rank^SKEW, as in the planted worlds."""


@dataclass(frozen=True)
class Arguments:
    """The negatives' part in making batches."""

    items: tuple[int, ...] = (10_000, 1_000_000, 50_000_000)
    """Catalogues to draw from."""
    batch_size: int = 2048
    """Examples a batch."""
    negatives: int = 4
    """For each example."""
    rounds: int = 50
    """Figures of each kind."""
    interactions: int = 100_000
    """Of the planted world whose batches are made: few, so that turns are short."""
    out: Path = Path("benchmarks/results/negatives.jsonl")
    """File to append to."""
    smoke: bool = False
    """A small catalogue, twice: shows that the script works, no figure."""


def drawing(items: int, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Draws a second from a catalogue, by power."""
    rank = np.random.default_rng(0).permutation(items) + 1
    counts = np.ceil(1e6 * rank**-SKEW).astype(np.int64)
    samplers, built_s = {}, {}
    for power in POWERS:
        begin = time.perf_counter()
        samplers[f"power {power:g}"] = NegativeSampler(counts, power)
        built_s[f"power {power:g}"] = time.perf_counter() - begin
    times = interleaved(
        {name: _drawer(sampler, shape) for name, sampler in samplers.items()},
        rounds,
        5,
        clock=time.process_time,
    )
    number = shape[0] * shape[1]
    return {
        "items": items,
        "batch_size": shape[0],
        "negatives": shape[1],
        "draws_per_s": {
            name: percentiles([number / s for s in seconds]) for name, seconds in times.items()
        },
        "built_s": built_s,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _drawer(sampler: NegativeSampler, shape: tuple[int, int]) -> Callable[[], object]:
    steps = itertools.count()
    return lambda: sampler.draw(shape, generator(0, NEGATIVES, next(steps)))


def batches(data: Path, power: float, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Seconds of an epoch's batches with negatives and without, and of the draws alone."""
    dataset = Dataset.open(data)
    batch_size, negatives = shape
    readers = {
        name: ExampleReader(
            dataset, ReaderOptions(batch_size, 1_000_000, 0, number, negative_power=power)
        )
        for name, number in (("with", negatives), ("without", 0))
    }
    an_epoch = readers["with"].examples // batch_size
    streams = {name: iter(reader) for name, reader in readers.items()}
    counts = dataset.table("items", ["train_count"])["train_count"].to_numpy()
    draw = _drawer(NegativeSampler(counts[: dataset.schema.trained_items], power), shape)

    def read(name: str) -> None:
        deque(itertools.islice(streams[name], an_epoch), maxlen=0)

    times = interleaved(
        {
            "with": lambda: read("with"),
            "without": lambda: read("without"),
            "draws": lambda: deque((draw() for _ in range(an_epoch)), maxlen=0),
        },
        rounds,
        warmup=1,
        clock=time.process_time,
    )
    return {
        "items": dataset.schema.trained_items,
        "batch_size": batch_size,
        "negatives": negatives,
        "power": power,
        "batch_ms": percentiles([1000 * s / an_epoch for s in times["with"]]),
        "negatives_share": percentiles([1 - r for r in ratios(times, "without", "with")]),
        "drawing_share": percentiles(ratios(times, "draws", "with")),
    }


def main() -> None:
    """Measure once and append the results."""
    arguments = tyro.cli(Arguments)
    sizes, rounds = (arguments.items, arguments.rounds)
    if arguments.smoke:
        sizes, rounds = (1_000,), 2
    shape = (arguments.batch_size, arguments.negatives)
    out = None if arguments.smoke else arguments.out
    for items in tqdm(sizes, desc="catalogues"):
        row = {"benchmark": "negatives", "what": "drawing"} | drawing(items, shape, rounds)
        append(out, row | circumstances())
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        count = 40_000 if arguments.smoke else arguments.interactions
        prepare(Synthetic(out=data, users=5_000, items=10_000, interactions=count))
        for power in POWERS:
            row = {"benchmark": "negatives", "what": "batches"}
            append(out, row | batches(data, power, shape, rounds) | circumstances())


if __name__ == "__main__":
    main()
