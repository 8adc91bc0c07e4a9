"""How much faster are more ranks: the same global batch on them (strong), or each its own (weak)?

    python -m benchmarks.scaling [--worlds 1 2 4] [--rounds 3]

Each rank has one thread, and a core of its own as long as there are cores; beyond, ranks share
them, and the figure says nothing of the code. Worlds take turns. The shapes are those of
``train_step``: ``modern`` computes much for what it sends, ``tables`` little. (Weak scaling of
``modern`` would say nothing: more ranks give each query more candidates.)
"""

import dataclasses
import itertools
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from tqdm import tqdm

from benchmarks.ranks import on_ranks
from benchmarks.record import append, circumstances, percentiles
from benchmarks.shapes import Shape, build, endless
from benchmarks.train_step import SHAPES, SMOKE, spread
from dat_rec.parallel.process_group import process_group

Kind = Literal["strong", "weak"]
CASES: tuple[tuple[Kind, str], ...] = (
    ("strong", "modern"),
    ("strong", "tables"),
    ("weak", "tables"),
)
GLOBAL_BATCH = 8192


@dataclass(frozen=True)
class Arguments:
    """Samples a second on more ranks."""

    worlds: tuple[int, ...] = (1, 2, 4)
    """How many ranks."""
    rounds: int = 3
    """Turns of each world."""
    steps: int = 20
    """Steps of a turn."""
    comms: Literal["fp32", "fp16"] = "fp32"
    """As in training."""
    out: Path = Path("benchmarks/results/scaling.jsonl")
    """File to append to."""
    smoke: bool = False
    """Tiny tables, once, on one rank and on two: shows that the script works, no figure."""


def one_turn(shape: Shape, comms: Literal["fp32", "fp16"], steps: int) -> dict[str, Any]:
    """Seconds of each step on this rank, and its peak memory."""
    with process_group(300) as place:
        config = shape.config(comms=comms, sharding_types=("table_wise",))
        built = build(shape, config, place)
        batches = endless(shape.batches(8, place.rank, place.world_size))
        pipeline = TrainPipelineSparseDist(
            built.model, built.optimizer, place.device, execute_all_batches=True
        )
        for _ in range(min(steps, 5)):
            pipeline.progress(batches)
        times = [time.perf_counter()]
        for _ in range(steps):
            pipeline.progress(batches)
            times.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(times)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_memory_mb": peak}


def of_case(kind: Kind, name: str, world: int) -> Shape:
    """The shape: 8192 examples a step of all ranks together, or 4096 of each."""
    rows = GLOBAL_BATCH if kind == "strong" else GLOBAL_BATCH // 2 * world
    return dataclasses.replace(SHAPES[name], batch_size=rows)


def main() -> None:
    """Measure in turns, print the figures, append all of it."""
    arguments = tyro.cli(Arguments)
    worlds = (1, 2) if arguments.smoke else arguments.worlds
    rounds, steps = (1, 2) if arguments.smoke else (arguments.rounds, arguments.steps)
    cases = list(itertools.product(CASES[:1] if arguments.smoke else CASES, worlds))
    rates: dict[tuple[tuple[Kind, str], int], list[float]] = {case: [] for case in cases}
    peaks: dict[tuple[tuple[Kind, str], int], float] = {}
    for case, world in tqdm(cases * rounds, desc="measure", unit="turn"):
        shape = SMOKE if arguments.smoke else of_case(*case, world)
        found = on_ranks(world, one_turn, shape, arguments.comms, steps)
        rates[case, world].append(shape.batch_size / float(np.median(found[0]["seconds"])))
        peaks[case, world] = max(rank["peak_memory_mb"] for rank in found)
    cores = len(os.sched_getaffinity(0))
    facts = {"cores": cores, "comms": arguments.comms, **circumstances()}
    out = None if arguments.smoke else arguments.out
    for (case, world), found_rates in rates.items():
        row: dict[str, Any] = {
            "benchmark": "scaling",
            "kind": case[0],
            "shape": case[1],
            "world_size": world,
            "samples_per_s": percentiles(found_rates),
            "peak_memory_mb_of_a_rank": peaks[case, world],
            "own_cores": world <= cores,
        }
        if 1 in worlds and world > 1:
            alone = rates[case, 1]
            row["speedup"] = spread([a / b for a, b in zip(found_rates, alone, strict=True)])
        append(out, row | facts)
        if (case, world) == (CASES[0], 2) and 1 in worlds:
            append(out, {"name": "two_rank_speedup", **row["speedup"]} | facts)


if __name__ == "__main__":
    main()
