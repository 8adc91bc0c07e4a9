"""What does a step cost, part by part, and beside a two-tower, plain PyTorch and bare FBGEMM?

    python -m benchmarks.train_step [--shape small|tables|modern] [--rounds 30]

One process, one core, one thread; batches lie in memory. On a CPU the clock is the process's CPU
time. The kinds take turns, so that what disturbs the machine disturbs all; ratios are taken round
by round. ``step_over_floor`` is over the least that this processor could take (``floor.py``). Each
figure is a JSON line (``name``, ``value``), and so is all that was measured.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torchrec
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torchrec.modules.fused_embedding_modules import fuse_embedding_optimizer

from benchmarks.floor import bytes_of_tables, floor
from benchmarks.options import Options, parse
from benchmarks.plain import PlainDAT
from benchmarks.ranks import on_ranks
from benchmarks.record import peak_memory_mb, percentiles, spread
from benchmarks.shapes import Shape, build, endless, stepper
from benchmarks.timing import interleaved, ratios
from dat_rec.config import Device, TrainConfig
from dat_rec.data.stream.batch import Batch
from dat_rec.dist.process_group import process_group
from dat_rec.dist.rank_context import RankContext
from dat_rec.model.losses import category_alignment, category_moments
from dat_rec.sharding.initial_tables import initialize_tables
from dat_rec.sharding.shard import EPS
from dat_rec.training.objective import TrainTask

SHAPES = {
    "small": Shape(
        (100_000,) * 4,
        (100_000,) * 4,
        dim=16,
        hidden=(256, 128, 64),
        output_dim=16,
        batch_size=4096,
        shared_negatives=1024,
    ),
    "tables": Shape((500_000,) * 7, (500_000,) * 7, batch_size=8192, shared_negatives=1024),
    "modern": Shape((500_000, 100, 1000, 10_000), (100_000, 1000, 10_000), bag=3),
    # The paper's users, items and categories: 45 GB with augmented vectors and Adagrad's sums.
    "meituan": Shape((82_347_275,), (3_561_499,), batch_size=8192, categories=10, skew=0.9),
}
SMOKE = Shape((1000,) * 2, (1000,) * 2, dim=8, hidden=(16,), output_dim=8, batch_size=64)
BATCHES = 16
Kind = Literal["dat", "bfloat16", "two_tower", "fbgemm", "plain", "content", "fused"]
OWN = {"dat": "float32", "bfloat16": "bfloat16"}
"""The kinds that differ in their towers' numbers alone."""
CONTENT = 768
"""Width of the items' dense vectors, in the kind ``content``."""
PARTS = {
    "copy": ("## copy_batch_to_gpu", "## next_batch", "## load_batch"),
    "input dist": ("## start_sparse_data_dist", "## wait_sparse_data_dist", "## wait_for_batch"),
    "lookup": ("[lookup]",),
    "output dist": ("[output_dist]",),
    "towers": ("towers",),
    "losses": ("losses",),
    "forward": ("## forward",),
    "backward": ("## backward",),
    "table update": ("fbgemm::split_embedding_backward",),
    "optimizer": ("## optimizer",),
    "zero grad": ("## zero_grad",),
}
"""Prefixes of the profiler's events that make up each part of a step."""
LABELS = {
    "query_tower": "towers",
    "item_tower": "towers",
    "exchange": "losses",
    "objective": "losses",
}
"""Part of a step to which a module's forward belongs."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """What a step costs."""

    shape: Literal["small", "tables", "modern", "meituan"] = "small"
    """small: 8 features of 100 k rows × 16, batch 4096; tables: 14 of 500 k × 32, batch 8192 (both
    with 1,024 shared negatives); modern: the preset's towers, batch 2048, in-batch negatives;
    meituan: the paper's 82 million users and 3.6 million items × 32, batch 8192."""
    kinds: tuple[Kind, ...] = ("dat", "bfloat16", "two_tower", "fbgemm", "plain")
    """What takes part: the model sharded by TorchRec as in training, with towers in bfloat16,
    without augmented vectors and their losses, on unsharded FBGEMM tables, in plain PyTorch; with
    768 numbers for each item (content); with the softmax of Triton's kernels (fused, on a GPU)."""
    rounds: int = 30
    """Turns of each kind."""


def sharded(shape: Shape, config: TrainConfig, context: RankContext) -> Callable[[], object]:
    """A step of training's pipeline."""
    built = build(shape, config, context)
    for name, module in built.model.named_modules():
        if label := LABELS.get(name.rpartition(".")[2]):
            _label(module, label)
    return stepper(shape, built, context, BATCHES)


def _label(module: nn.Module, name: str) -> None:
    """Show the module's forward to the profiler under this name."""
    marks: list[Any] = []

    def begin(*_: Any) -> None:
        marks.append(record_function(name))
        marks[-1].__enter__()

    def end(*_: Any) -> None:
        marks.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(begin)
    module.register_forward_hook(end)


def unsharded(shape: Shape, config: TrainConfig, device: torch.device) -> Callable[[], object]:
    """A step of the same model on FBGEMM's tables, without process group, planner, pipeline."""
    task = TrainTask(shape.schema(), config.model, config.loss)
    initialize_tables(task, config.seed, config.optimizer.table_init)
    learn, rowwise = config.optimizer, torchrec.optim.RowWiseAdagrad
    fuse_embedding_optimizer(task, rowwise, {"lr": learn.table_lr, "eps": EPS}, device)
    task.to(device)
    towers = [p for name, p in task.named_parameters() if "_tower." in name]
    adam = torch.optim.Adam(towers, lr=learn.tower_lr)
    batches = endless(shape.batches(BATCHES))
    return _plain_step(lambda batch: task(batch)[0], [adam], batches, device)


def plain(shape: Shape, config: TrainConfig, device: torch.device) -> Callable[[], object]:
    """A step of the same model in plain PyTorch."""
    model = PlainDAT(shape.schema(), config).to(device)
    return _plain_step(model, model.optimizers(), endless(shape.batches(BATCHES)), device)


def _plain_step(
    loss_of: Callable[[Batch], Tensor],
    optimizers: list[torch.optim.Optimizer],
    batches: Iterator[Batch],
    device: torch.device,
) -> Callable[[], object]:
    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(next(batches).to(device)).backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def alignment_alone(shape: Shape, device: torch.device) -> Callable[[], object]:
    """The alignment loss of as many items, and its gradient, without the rest of the step."""
    batch = shape.batches(1)[0].to(device)
    category = torch.cat([batch.positives.category, batch.negatives.category])
    items = torch.randn(len(category), shape.output_dim, device=device, requires_grad=True)

    def step() -> None:
        items.grad = None
        moments = category_moments(items, category, shape.categories)
        category_alignment(moments).backward()

    return step


def parts_of(step: Callable[[], object], steps: int) -> dict[str, float]:
    """Milliseconds of each part, by the profiler, which slows what is small."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(steps):
            step()
    found = dict.fromkeys(PARTS, 0.0)
    for event in profiled.key_averages():
        for part, begins in PARTS.items():
            if event.key.startswith(begins):
                found[part] += event.cpu_time_total / 1e3 / steps
    inside = ("lookup", "output dist", "towers", "losses")
    found["rest of forward"] = found.pop("forward") - sum(found[part] for part in inside)
    found["backward of towers, losses"] = found.pop("backward") - found["table update"]
    return {part: ms for part, ms in found.items() if ms > 0}


def measure(shape: Shape, kinds: tuple[Kind, ...], rounds: int, device: Device) -> dict[str, Any]:
    """Seconds a step of each kind, round by round, and the parts of DAT's; all on one device."""
    with process_group(60, device=device) as context:
        config = shape.config()
        half = dataclasses.replace(config.model, precision="bfloat16")
        make: dict[str, Callable[[], Callable[[], object]]] = {
            "dat": lambda: sharded(shape, config, context),
            "bfloat16": lambda: sharded(shape, dataclasses.replace(config, model=half), context),
            "content": lambda: sharded(
                dataclasses.replace(shape, content=CONTENT), config, context
            ),
            "fused": lambda: sharded(shape, dataclasses.replace(config, softmax="fused"), context),
            "two_tower": lambda: sharded(shape, shape.config("two-tower"), context),
            "fbgemm": lambda: unsharded(shape, config, context.device),
            "plain": lambda: plain(shape, config, context.device),
        }
        steps: dict[str, Callable[[], object]] = {kind: make[kind]() for kind in kinds}
        steps["alignment"] = alignment_alone(shape, context.device)
        on_cpu = context.device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        times = interleaved(steps, rounds, clock=clock)
        parts = parts_of(steps["dat"], min(rounds, 10)) if "dat" in steps else {}
        floors = {}
        if on_cpu:
            augmented = shape.output_dim if config.model.augment else 0
            moved = bytes_of_tables(shape.batches(1)[0], shape, augmented)
            floors = {kind: floor(steps[kind], moved) for kind in OWN if kind in steps}
    return {
        "seconds": times,
        "parts_ms": parts,
        "floor": floors,
        "peak_memory_mb": peak_memory_mb(),
        "device": context.device.type,
    }


def figures(name: str, shape: Shape, times: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """The named figures that the kinds allow.

    Where DAT's towers took part in float32 and in bfloat16, the quicker of them has the plain
    name. Plain PyTorch's are in float32, and DAT has the same ones where it is compared with the
    two-tower.
    """
    wanted = {
        "dat_over_two_tower": ("dat", "two_tower"),
        "alignment_share": ("alignment", "dat"),
        "content_over_dat": ("content", "dat"),
        "speedup_over_unsharded_fbgemm": ("fbgemm", "dat"),
        "speedup_of_fused_softmax": ("dat", "fused"),
    }
    for figure, (over, under) in wanted.items():
        if {over, under} <= times.keys():
            yield {"name": figure, **spread(ratios(times, over, under))}
    there = sorted(OWN.keys() & times.keys(), key=lambda kind: float(np.median(times[kind])))
    for kind in there:
        before, towers = "" if kind == there[0] else f"{OWN[kind]}_", {"towers": OWN[kind]}
        rates = [shape.batch_size / seconds for seconds in times[kind]]
        yield {"name": f"{before}{name}_samples_per_s", **spread(rates), **towers}
        if "plain" in times:
            speedup = spread(ratios(times, "plain", kind))
            yield {"name": f"{before}speedup_over_plain_pytorch", **speedup, **towers}


def main() -> None:
    """Measure, print the figures, append all of it."""
    arguments = parse(Arguments)
    shape = SMOKE if arguments.smoke else SHAPES[arguments.shape]
    rounds = 2 if arguments.smoke else arguments.rounds
    begin = time.perf_counter()
    (found,) = on_ranks(1, measure, shape, arguments.kinds, rounds, arguments.device)
    times = found["seconds"]
    facts = {"shape": arguments.shape, "device": found["device"]}
    for figure in figures(arguments.shape, shape, times):
        arguments.report("train_step", figure | facts)
    for kind, least in found["floor"].items():
        over = [1e3 * seconds / least["floor_ms"] for seconds in times[kind]]
        name = {"name": "step_over_floor", **spread(over), "towers": OWN[kind]}
        arguments.report("train_step", name | least | facts)
    samples = {
        kind: percentiles([shape.batch_size / seconds for seconds in of_kind])
        for kind, of_kind in itertools.islice(times.items(), len(times) - 1)
    }
    row = {
        "rounds": rounds,
        "batch_size": shape.batch_size,
        "samples_per_s": samples,
        "alignment_s": percentiles(times["alignment"]),
        "parts_ms": found["parts_ms"],
        "peak_memory_mb": found["peak_memory_mb"],
        "took_s": time.perf_counter() - begin,
    }
    arguments.report("train_step", row | facts)


if __name__ == "__main__":
    main()
