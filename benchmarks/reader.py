"""How many times faster than the trainer is the reader, and two ranks' readers than one?

    python -m benchmarks.reader [--data DIR] [--batch-size 2048] [--against CHECKOUT]

In turn: the reader makes an epoch's batches, and training's own step consumes batches that lie in
memory. The results are JSON lines: every figure, and the ratio that is to be 5 or more.

Then readers alone, in processes of their own with a core each, which take turns: of one rank, of
two ranks, and of the dat_rec in another checkout, on the same files or, with ``--against-data``, on
its own. Their CPU time counts, all threads together, so that other work on the machine does not.
"""

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.on_data import configured, pipeline
from benchmarks.options import Options, parse
from benchmarks.ranks import on_ranks
from benchmarks.record import percentiles
from benchmarks.shapes import endless
from benchmarks.timing import interleaved
from dat_rec.config import Preset, TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.storage.address import Location
from dat_rec.training.build import reader_options

READ_ALONE = Path(__file__).parent / "read_alone.py"
IN_MEMORY = 16
"""Batches that the trainer takes in turn."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """The reader's samples a second beside the trainer's."""

    data: Path | None = None
    """A prepared dataset; a planted world of 900,000 training examples without it."""
    preset: Preset = "modern"
    """Which set-up."""
    batch_size: int = 2048
    """Examples a batch."""
    rounds: int = 9
    """Epochs that the reader makes."""
    steps: int = 40
    """Steps of the trainer after each of them."""
    against: Path | None = None
    """Another checkout, whose reader is measured beside this one's."""
    against_data: Path | None = None
    """The dataset that it reads, where it is not the same."""


def measure(config: TrainConfig, rounds: int, steps: int) -> dict[str, Any]:
    """Every figure of ``rounds`` epochs read, each followed by ``steps`` steps trained."""
    with process_group(config.timeout_s, device=config.device) as context:
        dataset = Dataset.open(config.data)
        steps_of = pipeline(config, dataset, context)
        reader = ExampleReader(dataset, reader_options(config, config.batch_size))
        stream = iter(reader)
        batches = endless(list(itertools.islice(reader, IN_MEMORY)))
        an_epoch = reader.examples // config.batch_size

        def read() -> None:
            deque(itertools.islice(stream, an_epoch), maxlen=0)

        def train() -> None:
            for _ in range(steps):
                steps_of.progress(batches)

        times = interleaved({"reader": read, "trainer": train}, rounds, warmup=1)
    examples = {"reader": an_epoch * config.batch_size, "trainer": steps * config.batch_size}
    rates = {name: [examples[name] / s for s in seconds] for name, seconds in times.items()}
    ratios = [a / b for a, b in zip(rates["reader"], rates["trainer"], strict=True)]
    return {
        "preset": config.preset,
        "dataset": dataset.schema.source,
        "features": len(dataset.schema.features),
        "examples": reader.examples,
        "batch_size": config.batch_size,
        "negatives": config.loss.negatives,
        "rounds": rounds,
        **{f"{name}_samples_per_s": percentiles(values) for name, values in rates.items()},
        "reader_over_trainer": percentiles(ratios),
    }


class Reading:
    """A process that reads when it is told (``read_alone.py``)."""

    def __init__(
        self, checkout: Path, data: Location, rank: int, world: int, given: Arguments
    ) -> None:
        batch = given.batch_size * world
        words = [data, given.preset, batch, rank, world, rank]
        self._process = subprocess.Popen(
            [sys.executable, str(READ_ALONE), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        )

    def begin(self, batches: int) -> None:
        """Let it read so many batches."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, float]:
        """What it says of them."""
        assert self._process.stdout is not None
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def read_alone(data: Location, given: Arguments, rounds: int, batches: int) -> dict[str, Any]:
    """Examples a second of CPU time: of one rank, of two together, and of the other checkout."""
    here = Path(__file__).parents[1]
    kinds = {"one_rank": [Reading(here, data, 0, 1, given)]}
    kinds["two_ranks"] = [Reading(here, data, rank, 2, given) for rank in range(2)]
    if given.against is not None:
        other = given.against_data or data
        kinds["against"] = [Reading(given.against.resolve(), other, 0, 1, given)]
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    order, drawn = list(kinds), random.Random(0)
    for turn in range(1 + rounds):
        drawn.shuffle(order)
        for name in order:
            for one in kinds[name]:
                one.begin(batches)
            found = [one.end() for one in kinds[name]]
            if turn:  # the first one warms up
                rates[name].append(sum(one["examples"] / one["cpu_s"] for one in found))
    for readings in kinds.values():
        for one in readings:
            one.close()
    result: dict[str, Any] = {f"{name}_per_cpu_s": percentiles(r) for name, r in rates.items()}
    pairs = [("two_ranks", "one_rank"), ("one_rank", "against")]
    for over, under in pairs:
        if under in rates:
            shares = [a / b for a, b in zip(rates[over], rates[under], strict=True)]
            result[f"{over}_over_{under}"] = percentiles(shares)
    return result


def main() -> None:
    """Measure once, append the results, and print the ratios."""
    arguments = parse(Arguments)
    size = (2, 2) if arguments.smoke else (arguments.rounds, arguments.steps)
    batch_size = 256 if arguments.smoke else arguments.batch_size
    large = {"users": 20_000, "items": 2_000, "interactions": 1_000_000}
    world = None if arguments.smoke else large
    given = (arguments.data, arguments.preset, batch_size, arguments.device, world)
    with configured(*given) as config:
        (result,) = on_ranks(1, measure, config, *size)
        alone = dataclasses.replace(arguments, batch_size=batch_size)
        batches = 4 if arguments.smoke else max(1, result["examples"] // batch_size)
        result |= read_alone(config.data, alone, size[0], batches)
    arguments.report("reader", result)
    ratio = result["reader_over_trainer"]["p50"]
    print(json.dumps({"name": "reader_over_trainer", "value": ratio}))


if __name__ == "__main__":
    main()
