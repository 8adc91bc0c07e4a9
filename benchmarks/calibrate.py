"""What do lookups, updates and exchanges cost here? Writes the file for ``--topology``.

    python -m benchmarks.calibrate --ranks 2 --out topology.json

``dat-rec plan --topology FILE`` and ``dat-rec train --topology FILE`` read it. What TorchRec's
planner makes of each bandwidth (torchrec 1.8.0, ``planner/estimator/estimator.py``), and how it is
measured so that the formula comes out right:

- ``ddr_mem_bw`` (CPU) or ``hbm_mem_bw`` (CUDA): a part's lookup takes
  p · (8 · values + 4 · values · max(D, 32) + 4 · bags · D) / bandwidth, where p is 1.75 for
  D < 64, 1.15 below 128 and 1 above (1 for row-wise parts), its update twice as long, and tables
  that are data-parallel have half the bandwidth. So the figure is three times those bytes over the
  seconds of a lookup and its fused update together: an effective bandwidth at ``--dim`` columns,
  below the memory's own, as every bag and every row has a cost of its own.
- ``intra_host_bw``: pooled embeddings of all ranks' examples, 4 · bags · D bytes, over it, forward
  and backward: the bytes of a rank's buffer over the seconds of an all-to-all.
- ``inter_host_bw``: between hosts the same. On one host it enters by the all-reduce of
  data-parallel tables alone: bytes over (it times the ranks of a host); so it is fitted here.
- ``hbm_to_ddr_mem_bw`` (CUDA): rows into the cache of fused_uvm_caching. On CPU in no formula.

On CPU the formulas stay wrong whatever the bandwidths: row-wise parts count without p and with all
bags, and nothing stands for a bag. There the file also holds ``costs``: steps of small models are
timed under every choice, and the costs of ``dat_rec.planner.time_cost`` fitted to them, not
negative, by least squares of relative errors. The time is each rank's CPU time: ranks with a
core each and one host do nothing else in a step, it tells who does what, and other work on the
machine hardly changes it. What a model takes under any plan (the smallest towers, ids sent,
embeddings received) is first a constant of its own, so that the choices' costs are those that
plans differ by; then ``every_rank`` is fitted to these constants.

The JSON line has each measurement's spread, and how far the fit is from what it was fitted to.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    ComputeDevice,
    EmbeddingLocation,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from numpy.typing import NDArray
from torch import Tensor
from torchrec.distributed.types import ShardingPlan

from benchmarks.options import RESULTS, Options, parse
from benchmarks.plans import Planner, on_one_rank, this_host, timed
from benchmarks.ranks import on_ranks
from benchmarks.record import append, circumstances, percentiles
from benchmarks.shapes import Shape
from benchmarks.timing import interleaved
from dat_rec.dist.process_group import process_group
from dat_rec.files import write_json
from dat_rec.planner.hardware import Cluster, Cost, CostKind, Hardware
from dat_rec.planner.time_cost import cost_kind, own_work, shard_work

CHOICES: tuple[CostKind, ...] = tuple(one for one in get_args(CostKind) if one != "every_rank")
EVERY: CostKind = "every_rank"
SHAPES = {
    "narrow": Shape((200_000,) * 15, (200_000,) * 15, dim=16, batch_size=8192),
    "wide": Shape((100_000,) * 4, (100_000,) * 4, dim=128, batch_size=4096),
    "bags": Shape((200_000,) * 4, (200_000,) * 4, dim=32, batch_size=4096, bag=16),
    "wide bags": Shape((100_000,) * 3, (100_000,) * 3, dim=128, batch_size=2048, bag=16),
    "small": Shape((5_000,) * 20, (5_000,) * 20, dim=16, batch_size=4096),
    "small wide": Shape((20_000,) * 4, (20_000,) * 4, dim=64, batch_size=2048),
    "small bags": Shape((2_000,) * 6, (2_000,) * 6, dim=32, batch_size=4096, bag=8),
}
"""Models whose steps the costs are fitted to; other than those of ``benchmarks.fidelity``."""
SMALL = ("small", "small wide", "small bags")
"""Those that are sharded data-parallel too: others' gradients would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Measure bandwidths and costs, and write them into a topology file."""

    out: Path = Path("topology.json")
    """Topology file to write."""
    ranks: int = 2
    """Ranks on this host, one core each, or one GPU each."""
    dim: int = 32
    """Columns of the tables for which the lookups' bandwidth is right."""
    rows: int = 4_000_000
    """Rows of the table that is looked up: far more than the caches hold."""
    lookups: int = 65_536
    """Rows of a lookup, one a bag."""
    exchanged_mb: int = 16
    """Bytes that each rank exchanges at a time, in MB."""
    rounds: int = 20
    """Figures of each kind."""
    results: Path = RESULTS / "calibrate.jsonl"
    """File to append to."""
    seed: int = 0
    """Random seed of rows and ids."""


def main() -> None:
    """Measure, write the file, append the line."""
    arguments = parse(Arguments)
    shapes = SHAPES
    if arguments.smoke:
        small = {"rows": 10_000, "lookups": 1024, "exchanged_mb": 1, "rounds": 2}
        arguments = dataclasses.replace(arguments, **small)  # type: ignore[arg-type]
        shapes = {"small bags": SHAPES["small bags"]}
    begin = time.perf_counter()
    seconds = _bandwidth_seconds(arguments)
    bandwidths = fit_bandwidths(seconds, arguments)
    here = this_host(arguments.device, arguments.ranks).hardware
    topology: dict[str, Any] = {
        "device": here.device,
        "hosts": 1,
        "ranks_per_host": arguments.ranks,
        "host_memory_gb": _host_memory_gb(),
        **{name: value["p50"] for name, value in bandwidths.items()},
        "measured": True,
    }
    row: dict[str, Any] = {"benchmark": "calibrate", "ranks": arguments.ranks}
    row |= {"bandwidths_gb_s": bandwidths}
    row |= {"seconds": {name: percentiles(value) for name, value in seconds.items()}}
    if here.device == "cuda":
        topology["memory_gb"] = here.memory_gb
    else:
        steps = _measure_steps(shapes, arguments)
        costs, errors, constants = fit_costs(steps)
        topology["costs"] = {name: asdict(cost) for name, cost in costs.items()}
        row["costs"] = topology["costs"]
        row["relative_errors"] = errors
        row["constants_ms"] = constants
        row["steps"] = [
            {"shape": one.shape, "plan": one.plan, "cpu_ms": percentiles(one.cpu_ms)}
            for one in steps
        ]
    # A topology file of a smoke run would pass for measured.
    write_json(arguments.out, topology | {"measured": not arguments.smoke})
    row |= {"took_s": time.perf_counter() - begin}
    append(None if arguments.smoke else arguments.results, row | circumstances())


def _host_memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _bandwidth_seconds(arguments: Arguments) -> dict[str, list[float]]:
    """Seconds of the slowest rank in each round, by what is done."""
    found = on_ranks(arguments.ranks, _bandwidths_on_rank, arguments)
    return {
        name: [max(of) for of in zip(*(one[name] for one in found), strict=True)]
        for name in found[0]
    }


def _bandwidths_on_rank(arguments: Arguments) -> dict[str, list[float]]:
    with process_group(300, device=arguments.device) as context:
        generator = torch.Generator().manual_seed(arguments.seed + context.rank)
        steps = _lookups(arguments, context.device, generator)
        size = arguments.exchanged_mb * 10**6 // 4 // context.world_size * context.world_size
        sent = torch.ones(size, device=context.device)
        received = torch.empty_like(sent)
        if context.world_size > 1:
            steps["all_to_all"] = lambda: dist.all_to_all_single(received, sent)
            steps["all_reduce"] = lambda: dist.all_reduce(received)
        if context.device.type == "cuda":
            host = torch.ones(size, pin_memory=True)
            steps["host_to_device"] = lambda: sent.copy_(host)
        return interleaved(steps, arguments.rounds)


def _lookups(
    arguments: Arguments, device: torch.device, generator: torch.Generator
) -> dict[str, Callable[[], object]]:
    """Lookups of random rows, one a bag; and lookups with their update."""
    on_gpu = device.type == "cuda"
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [
            (
                arguments.rows,
                arguments.dim,
                EmbeddingLocation.DEVICE if on_gpu else EmbeddingLocation.HOST,
                ComputeDevice.CUDA if on_gpu else ComputeDevice.CPU,
            )
        ],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        device=device,
    )
    table.init_embedding_weights_uniform(-1.0, 1.0)
    shape = (4, arguments.lookups)
    ids = torch.randint(arguments.rows, shape, generator=generator).to(device)
    offsets = torch.arange(arguments.lookups + 1, device=device)
    gradient = torch.ones(arguments.lookups, arguments.dim, device=device)
    turn = iter(range(10**9))

    def lookup() -> Tensor:
        found: Tensor = table(ids[next(turn) % len(ids)], offsets)
        return found

    return {"lookup": lookup, "lookup_update": lambda: lookup().backward(gradient)}


def fit_bandwidths(
    seconds: Mapping[str, list[float]], arguments: Arguments
) -> dict[str, dict[str, float]]:
    """GB/s by their names in the file, as the docstring above says."""
    dim, on_gpu = arguments.dim, "host_to_device" in seconds
    penalty = 1.75 if dim < 64 else 1.15 if dim < 128 else 1.0
    moved = penalty * arguments.lookups * (8 + 4 * max(dim, 32) + 4 * dim)
    exchanged = arguments.exchanged_mb * 1e6
    of = {"hbm_mem_bw" if on_gpu else "ddr_mem_bw": (3 * moved, "lookup_update")}
    if "all_to_all" in seconds:
        of["intra_host_bw"] = (exchanged, "all_to_all")
        of["inter_host_bw"] = (exchanged / arguments.ranks, "all_reduce")
    if on_gpu:
        of["hbm_to_ddr_mem_bw"] = (exchanged, "host_to_device")
    return {
        name: percentiles([size / 1e9 / one for one in seconds[kind]])
        for name, (size, kind) in of.items()
    }


@dataclass(frozen=True)
class Step:
    """One rank's part of a plan's steps."""

    shape: str
    plan: str
    cpu_ms: list[float]
    work: dict[CostKind, Cost]
    """What its shards of tables have to do, and its examples under any plan."""


def _measure_steps(shapes: Mapping[str, Shape], arguments: Arguments) -> list[Step]:
    """Every shape, sharded in every way, on every rank."""
    rest = Cluster(Hardware("here", "cpu", None, _host_memory_gb()), 1, arguments.ranks)
    steps = []
    for name, shape in shapes.items():
        shape = dataclasses.replace(shape, hidden=(8,), output_dim=8)
        planner = Planner(shape, arguments.ranks)
        kinds = CHOICES if name in SMALL else [one for one in CHOICES if one != "data_parallel"]
        plans: dict[str, ShardingPlan] = {one: planner.plan(rest, (f"*={one}",)) for one in kinds}
        if arguments.ranks > 1:
            plans["one rank"] = on_one_rank(planner.plan(rest, ("*=table_wise",)), "cpu")
        times = timed(shape, plans, arguments.ranks, arguments.rounds, "cpu")
        for kind, plan in plans.items():
            works = _work(planner, plan, rest)
            for cpu, mine in zip(times[kind].cpu_seconds, works, strict=True):
                steps.append(Step(name, kind, [1000 * one for one in cpu], mine))
    return steps


def _work(planner: Planner, plan: ShardingPlan, cluster: Cluster) -> list[dict[CostKind, Cost]]:
    """The work of each rank."""
    nothing = np.zeros(len(dataclasses.fields(Cost)))
    ranks: list[dict[CostKind, NDArray[np.float64]]] = [{} for _ in range(cluster.world_size)]
    for option in planner.parts(plan, cluster):
        for mine in ranks:
            mine[EVERY] = mine.get(EVERY, nothing) + np.array(astuple(own_work(option)))
        for part in option.shards:
            mine, kind = ranks[part.rank or 0], cost_kind(option)
            one = np.array(astuple(shard_work(option, part, cluster.topology())))
            mine[kind] = mine.get(kind, nothing) + one
    return [{kind: Cost(*map(float, one)) for kind, one in mine.items()} for mine in ranks]


def fit_costs(
    steps: Sequence[Step],
) -> tuple[dict[CostKind, Cost], dict[str, float], dict[str, float]]:
    """Costs; percentiles of the fit's relative errors; constants by shape, in ms.

    Relative errors are squared. The constants come beside the choices' costs, and every_rank's
    costs from the constants.
    """
    shapes = sorted({one.shape for one in steps})
    width = len(dataclasses.fields(Cost))
    matrix = np.zeros((len(steps), len(CHOICES) * width + len(shapes)))
    own = np.zeros((len(shapes), width))
    times = np.array([np.median(one.cpu_ms) for one in steps])
    for row, one in zip(matrix, steps, strict=True):
        for at, kind in enumerate(CHOICES):
            if kind in one.work:
                row[at * width : (at + 1) * width] = np.array(astuple(one.work[kind])) / 1e6
        row[len(CHOICES) * width + shapes.index(one.shape)] = 1.0
        own[shapes.index(one.shape)] = np.array(astuple(one.work[EVERY])) / 1e6
    solution = not_negative(matrix / times[:, None], np.ones(len(steps)))
    constants = np.maximum(solution[len(CHOICES) * width :], 1e-3)
    every = not_negative(own / constants[:, None], np.ones(len(shapes)))
    found = [*solution[: len(CHOICES) * width].reshape(len(CHOICES), width), every]
    costs = {
        kind: Cost(*map(float, one)) for kind, one in zip((*CHOICES, EVERY), found, strict=True)
    }
    errors = percentiles(list(np.abs(matrix @ solution / times - 1)))
    return costs, errors, dict(zip(shapes, map(float, constants), strict=True))


def not_negative(matrix: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with no negative number: Lawson and Hanson's active sets.

    Args:
        matrix: (equations, numbers).
        wanted: (equations,).

    Returns:
        (numbers,)
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    count = scaled.shape[1]
    free, found = np.zeros(count, bool), np.zeros(count)
    for _ in range(10 * count):
        slope = scaled.T @ (wanted - scaled @ found)
        slope[free] = -np.inf
        if slope.max() <= 1e-9:
            break
        free[slope.argmax()] = True
        while True:
            best = np.zeros(count)
            best[free] = np.linalg.lstsq(scaled[:, free], wanted, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                break
            step = (found[below] / (found[below] - best[below])).min()
            found += step * (best - found)
            free &= found > 1e-12
            found[~free] = 0.0
        found = best
    result: NDArray[np.float64] = found / scale
    return result


if __name__ == "__main__":
    main()
