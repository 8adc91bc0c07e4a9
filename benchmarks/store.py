"""How much slower is a dataset read from an object store than from the disk?

    python -m benchmarks.store --data DIR --address s3://BUCKET/KEY [--rounds 9]

The same dataset lies at both. In turn, one rank's reader makes an epoch's batches of each, threads
and read-ahead begun anew. The results are two JSON lines: every figure, and the ratio, which is to
be .8 or more on loopback.
"""

import itertools
import json
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.options import Options, parse
from benchmarks.record import percentiles
from benchmarks.timing import interleaved
from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.batch import Batch
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.errors import UserError
from dat_rec.storage.address import Location
from dat_rec.training.build import reader_options


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """The reader's samples a second from a store, beside those from the disk."""

    data: Path
    """A prepared dataset."""
    address: Location
    """Address of the same dataset in a store."""
    batch_size: int = 2048
    """Examples a batch."""
    rounds: int = 9
    """Epochs that are read of each."""


def measure(arguments: Arguments) -> dict[str, Any]:
    """Every figure of ``rounds`` epochs read from each place."""
    places = {"disk": Dataset.open(arguments.data), "store": Dataset.open(arguments.address)}
    if places["disk"].row_digest() != places["store"].row_digest():
        raise UserError(f"{arguments.address}: not the dataset of {arguments.data}: copy it there")
    config = preset("modern", arguments.data, Path("run"))
    options = reader_options(config, arguments.batch_size)
    readers = {name: ExampleReader(dataset, options) for name, dataset in places.items()}
    an_epoch = readers["disk"].examples // arguments.batch_size

    def epoch_of(reader: ExampleReader) -> Callable[[], None]:
        def read() -> None:
            batches = cast(Generator[Batch, None, None], iter(reader))
            deque(itertools.islice(batches, an_epoch), maxlen=0)
            batches.close()

        return read

    rounds = 2 if arguments.smoke else arguments.rounds
    turns = {name: epoch_of(reader) for name, reader in readers.items()}
    times = interleaved(turns, rounds, warmup=1)
    examples = an_epoch * arguments.batch_size
    ratios = [disk / store for disk, store in zip(times["disk"], times["store"], strict=True)]
    return {
        "examples": readers["disk"].examples,
        "batch_size": arguments.batch_size,
        "rounds": rounds,
        **{
            f"{name}_samples_per_s": percentiles([examples / s for s in seconds])
            for name, seconds in times.items()
        },
        "store_over_disk": percentiles(ratios),
    }


def main() -> None:
    """Measure once, append the result, and print the ratio."""
    arguments = parse(Arguments)
    result = measure(arguments)
    arguments.report("store", result)
    print(json.dumps({"name": "store_over_disk", "value": result["store_over_disk"]["p50"]}))


if __name__ == "__main__":
    main()
