"""A reader that reads when it is told, for ``benchmarks.reader``: with dat_rec of any checkout.

    PYTHONPATH=CHECKOUT python benchmarks/read_alone.py DATA PRESET GLOBAL_BATCH RANK WORLD CORE

Each line of input is a number of batches. It answers with a JSON line: their examples on this
rank, and the seconds of CPU time, of all its threads, and of the clock. All run on one core.
"""

import dataclasses
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dat_rec.config import preset
from dat_rec.data.dataset import Dataset
from dat_rec.data.stream.reader import ExampleReader
from dat_rec.dist.process_group import process_group
from dat_rec.training.build import reader_options


def main() -> None:
    """Read as many batches as each line says."""
    data, name, global_batch, rank, world, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) % (os.cpu_count() or 1)})
    torch.set_num_threads(1)
    dataset = Dataset.open(Path(data))
    made: Any = preset(name, dataset.folder, Path())  # type: ignore[arg-type]
    options = reader_options(dataclasses.replace(made, epochs=1_000_000), int(global_batch))
    # As in training, where freed memory is kept.
    with process_group(60, device="cpu"):
        batches = iter(ExampleReader(dataset, options, int(rank), int(world)))
        for line in sys.stdin:
            begin = time.process_time(), time.perf_counter()
            rows = sum(b.counts[int(rank)] for b in itertools.islice(batches, int(line)))
            cpu_s, wall_s = time.process_time() - begin[0], time.perf_counter() - begin[1]
            print(json.dumps({"examples": rows, "cpu_s": cpu_s, "wall_s": wall_s}), flush=True)


if __name__ == "__main__":
    main()
