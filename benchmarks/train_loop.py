"""How many samples a second does one rank train, and how long does it wait for data?

    python -m benchmarks.train_loop --data DIR [--batch-size 2048] [--seconds 30]

Runs the real loop's parts — reader, planner, DMP, pipeline — and times each step. The
result is a JSON line: percentiles of samples/s over steps, the share of time spent waiting
for data, peak memory, and the circumstances.
"""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.on_data import configured, pipeline
from benchmarks.options import Options, parse
from benchmarks.record import peak_memory_mb, percentiles
from dat_rec.config import Preset, TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.prefetch import Prefetcher
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.training.build import reader_options


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Samples a second of training."""

    data: Path | None = None
    """A prepared dataset; a small planted world without it."""
    preset: Preset = "modern"
    """Which set-up."""
    batch_size: int = 2048
    """Examples a batch."""
    seconds: float = 30.0
    """How long to measure."""
    warmup_steps: int = 20
    """Steps before the clock starts."""


def measure(config: TrainConfig, seconds: float, warmup_steps: int) -> dict[str, Any]:
    """Train for ``seconds`` after ``warmup_steps``; every figure of that span."""
    with process_group(config.timeout_s, device=config.device) as context:
        dataset = Dataset.open(config.data)
        steps_of = pipeline(config, dataset, context)
        options = reader_options(config, config.batch_size * context.world_size)
        reader = ExampleReader(dataset, options, context.rank, context.world_size)
        batches = Prefetcher(iter(reader), context.device)
        for _ in range(warmup_steps):
            steps_of.progress(batches)
        waited, times = batches.wait_s, [time.perf_counter()]
        with tqdm(desc="measure", unit="step") as bar:
            while times[-1] - times[0] < seconds:
                steps_of.progress(batches)
                times.append(time.perf_counter())
                bar.update()
        batches.close()
        waited = batches.wait_s - waited
    span = times[-1] - times[0]
    global_batch = config.batch_size * context.world_size
    rates = [global_batch / (after - before) for before, after in itertools.pairwise(times)]
    return {
        "preset": config.preset,
        "dataset": dataset.schema.source,
        "batch_size": config.batch_size,
        "world_size": context.world_size,
        "steps": len(rates),
        "samples_per_s": global_batch * len(rates) / span,
        "samples_per_s_by_step": percentiles(rates),
        "data_wait_share": waited / span,
        "peak_memory_mb": peak_memory_mb(),
    }


def main() -> None:
    """Measure once and append the result."""
    arguments = parse(Arguments)
    span = (1.0, 2) if arguments.smoke else (arguments.seconds, arguments.warmup_steps)
    batch_size = 256 if arguments.smoke else arguments.batch_size
    with configured(arguments.data, arguments.preset, batch_size, arguments.device) as config:
        arguments.report("train_loop", measure(config, *span))


if __name__ == "__main__":
    main()
