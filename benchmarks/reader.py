"""How many times faster than the trainer is the reader?

    python -m benchmarks.reader [--data DIR] [--batch-size 2048]

In turn, one thread each: the reader makes an epoch's batches, and training's own step consumes
batches that lie in memory. The results are two JSON lines: every figure, and the ratio that is to
be 5 or more.
"""

import itertools
import json
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
from dat_rec.data.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.training.build import reader_options

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


def main() -> None:
    """Measure once, append the result, and print the ratio."""
    arguments = parse(Arguments)
    size = (2, 2) if arguments.smoke else (arguments.rounds, arguments.steps)
    batch_size = 256 if arguments.smoke else arguments.batch_size
    large = {"users": 20_000, "items": 2_000, "interactions": 1_000_000}
    world = None if arguments.smoke else large
    given = (arguments.data, arguments.preset, batch_size, arguments.device, world)
    with configured(*given) as config:
        (result,) = on_ranks(1, measure, config, *size)
    arguments.report("reader", result)
    ratio = result["reader_over_trainer"]["p50"]
    print(json.dumps({"name": "reader_over_trainer", "value": ratio}))


if __name__ == "__main__":
    main()
