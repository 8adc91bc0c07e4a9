"""How much faster are more ranks: the same global batch on them (strong), or each its own (weak)?

    python -m benchmarks.scaling [--worlds 2 4] [--launches 3] [--rounds 5]

Each rank has one thread, and a core of its own as long as there are cores; beyond, ranks share
them, and the figure says nothing of the code. All worlds are alive at once and take turns of a few
steps; one of the turns is that of two single ranks that know nothing of one another: what two
cores of this machine can do at best ("machine"). The shapes are those of ``train_step``:
``modern`` computes much for what it sends, ``tables`` little. (Weak scaling of ``modern`` would say
nothing: more ranks give each query more candidates.)

Beyond the worlds measured on cores of their own, samples/s are projected, and marked so, for as
many ranks as there are tables at most: what a rank computes shrinks as its share of the batch does,
and what a rank of two lost (less what the machine did) grows as the bytes that a rank sends
(``traffic``). No rank is slower than another there, nor has more tables, and no network is slower
than this machine's.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.options import Options, parse
from benchmarks.ranks import Turns, World, on_worlds
from benchmarks.record import peak_memory_mb, percentiles, spread
from benchmarks.shapes import Shape, build, stepper
from benchmarks.traffic import bytes_sent, tables
from benchmarks.train_step import SHAPES, SMOKE
from dat_rec.config import Device
from dat_rec.dist.process_group import process_group

Kind = Literal["strong", "weak"]
Case = tuple[Kind, str, int]
"""And the examples of a step: of all ranks together, or (weak) of two."""
CASES: tuple[Case, ...] = (
    ("strong", "modern", 16_384),
    ("strong", "modern", 8192),
    ("strong", "tables", 8192),
    ("weak", "tables", 8192),
)
"""The first gives the figure that has a name."""
PROJECTED = (4, 8, 16)
"""Ranks."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Samples a second on more ranks."""

    worlds: tuple[int, ...] = (2, 4)
    """How many ranks, beside one."""
    launches: int = 3
    """How often all processes start anew: where their memory lies changes their speed."""
    rounds: int = 5
    """Turns of each world in a launch."""
    steps: int = 3
    """Steps of a turn."""
    comms: Literal["fp32", "fp16"] = "fp32"
    """Dtype of what ranks send, as in training."""


@dataclass
class Measured:
    """A case's rounds, of all launches."""

    samples_per_s: dict[int, list[float]]
    """Rates of all rounds, by world size."""
    machine: list[float]
    """Samples/s of two single ranks together, over those of one alone."""
    peak_memory_mb: dict[int, float]
    """Peak memory of a rank, by world size."""


def take_turns(
    turns: Turns,
    shape: Shape,
    kind: Kind,
    comms: Literal["fp32", "fp16"],
    device: Device,
    rounds: int,
    steps: int,
) -> tuple[list[tuple[int, float]], float]:
    """The number and the seconds a step of each own turn, and this rank's peak memory in MiB."""
    with process_group(600, device=device) as context:
        config = shape.config(comms=comms)
        shape = of_world(shape, kind, context.world_size)
        step = stepper(shape, build(shape, config, context), context)
        for _ in range(3):
            step()
        seconds = []
        for turn in turns.take(rounds):
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            seconds.append((turn, (time.perf_counter() - begin) / steps))
    return seconds, peak_memory_mb()


def of_world(shape: Shape, kind: Kind, ranks: int) -> Shape:
    """The shape for more ranks, whose batch is that of all together, or half of it for each."""
    rows = shape.batch_size if kind == "strong" else shape.batch_size // 2 * ranks
    return dataclasses.replace(shape, batch_size=rows)


def measure(
    shape: Shape, kind: Kind, sizes: Sequence[int], arguments: Arguments, rounds: int, steps: int
) -> Measured:
    """One launch."""
    # The second single rank is there for the machine's turn alone, which is the last.
    worlds = [*(World(size) for size in sizes), World(1, first_core=1)]
    order = [*((number,) for number in range(len(sizes))), (0, len(sizes))]
    given = (shape, kind, arguments.comms, arguments.device, rounds, steps)
    found = on_worlds(worlds, order, take_turns, *given)

    def rates(world: int, turn: int) -> NDArray[np.float64]:
        """Samples/s of the slowest rank in each round."""
        seconds = [[s for number, s in rank if number == turn] for rank, _ in found[world]]
        size = of_world(shape, kind, worlds[world].size).batch_size
        return np.asarray(size / np.max(seconds, axis=0))

    machine = (rates(0, len(sizes)) + rates(len(sizes), len(sizes))) / rates(0, 0)
    return Measured(
        {size: rates(number, number).tolist() for number, size in enumerate(sizes)},
        machine.tolist(),
        {size: max(peak for _, peak in ranks) for size, ranks in zip(sizes, found, strict=False)},
    )


def joined(launches: Sequence[Measured]) -> Measured:
    """All launches' rounds."""
    sizes = launches[0].samples_per_s
    return Measured(
        {size: [rate for one in launches for rate in one.samples_per_s[size]] for size in sizes},
        [ratio for one in launches for ratio in one.machine],
        {size: max(one.peak_memory_mb[size] for one in launches) for size in sizes},
    )


def projected(shape: Shape, kind: Kind, found: Measured, ranks: int) -> float:
    """Samples/s on ``ranks`` ranks, from the medians of one and of two."""
    one, two = (
        of_world(shape, kind, size).batch_size / float(np.median(found.samples_per_s[size]))
        for size in (1, 2)
    )
    # What one of two ranks would take that have nothing to do with one another.
    own = one * (2 if kind == "weak" else 1) / float(np.median(found.machine))
    lost = max(0.0, two - own)
    more, few = (bytes_sent(of_world(shape, kind, size), size) for size in (ranks, 2))
    step = own * (1 if kind == "weak" else 2 / ranks) + lost * more / few
    return of_world(shape, kind, ranks).batch_size / step


def main() -> None:
    """Measure in turns, print the figures, append all of it."""
    arguments = parse(Arguments)
    sizes = (1, 2) if arguments.smoke else (1, *sorted({*arguments.worlds} - {1}))
    launches, rounds, steps = (
        (1, 1, 2) if arguments.smoke else (arguments.launches, arguments.rounds, arguments.steps)
    )
    shapes = {
        case: SMOKE if arguments.smoke else dataclasses.replace(SHAPES[case[1]], batch_size=case[2])
        for case in (CASES[:1] if arguments.smoke else CASES)
    }
    parts: dict[Case, list[Measured]] = {case: [] for case in shapes}
    todo = list(itertools.product(range(launches), shapes.items()))
    for _, (case, shape) in tqdm(todo, desc="measure", unit="launch"):
        parts[case].append(measure(shape, case[0], sizes, arguments, rounds, steps))
    cores = len(os.sched_getaffinity(0))
    facts = {"cores": cores, "comms": arguments.comms}
    for case, shape in shapes.items():
        found = joined(parts[case])
        about: dict[str, Any] = {
            "kind": case[0],
            "shape": case[1],
            "batch_size": case[2],
        }
        for size, rates in found.samples_per_s.items():
            row = about | {
                "world_size": size,
                "samples_per_s": percentiles(rates),
                "peak_memory_mb_of_a_rank": found.peak_memory_mb[size],
                "own_cores": size <= cores,
            }
            if size > 1:
                pairs = zip(rates, found.samples_per_s[1], strict=True)
                row["speedup"] = spread([many / one for many, one in pairs])
            if size == 2:
                row["machine"] = spread(found.machine)
            arguments.report("scaling", row | facts)
            if (case, size) == (CASES[0], 2):
                named = {"name": "two_rank_speedup", **row["speedup"], "machine": row["machine"]}
                arguments.report("scaling", named | about | facts)
        if 2 in sizes and cores >= 2 and arguments.comms == "fp32" and not arguments.smoke:
            measured = [size for size in sizes if size <= cores]
            for size in (x for x in PROJECTED if x not in measured and x <= tables(shape)):
                row = about | {
                    "world_size": size,
                    "projected_samples_per_s": projected(shape, case[0], found, size),
                }
                arguments.report("scaling", row | facts)


if __name__ == "__main__":
    main()
