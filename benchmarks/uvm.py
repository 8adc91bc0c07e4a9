"""How much slower is a step whose tables lie in the host's memory, with a cache on the GPU?

    python -m benchmarks.uvm [--rows 4000000] [--shares .05 .2 .5]

Every table by one of FBGEMM's kernels: ``fused`` (all on the device), ``fused_uvm`` (all in the
host's memory, which the GPU reads through) and ``fused_uvm_caching``, whose cache holds a share of
the rows. Ids are skewed, as logs' are. The kinds take turns. On a CPU there is ``fused`` alone.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le

from benchmarks.options import Options, parse
from benchmarks.ranks import on_ranks
from benchmarks.record import spread
from benchmarks.shapes import Shape, build, stepper
from benchmarks.timing import interleaved
from dat_rec.config import Device
from dat_rec.dist.process_group import process_group

BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """A step by kernel and by the cache's share."""

    rows: int = 4_000_000
    """Rows of each of ten tables × 64."""
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.05, 0.2, 0.5)
    """Shares of the rows that the cache holds."""
    rounds: int = 20
    """Turns of each kind."""


def kernels(shares: tuple[float, ...], device: str) -> dict[str, str]:
    """Names of the kinds, and how all tables are pinned."""
    found = {"fused": "*=fused"}
    if device == "cuda":
        found["fused_uvm"] = "*=fused_uvm"
        for share in shares:
            found[f"cache {share:g}"] = f"*=fused_uvm_caching,cache_load_factor:{share:g}"
    return found


def measure(
    shape: Shape, shares: tuple[float, ...], rounds: int, device: Device
) -> tuple[str, dict[str, list[float]], dict[str, float]]:
    """Device, seconds a step of each kind, and MB that it took of the GPU."""
    with process_group(60, device=device) as context:
        steps, taken = {}, {}
        for name, pin in kernels(shares, context.device.type).items():
            before = _allocated()
            config = dataclasses.replace(shape.config(), pin=(pin,))
            built = build(shape, config, context)
            steps[name] = stepper(shape, built, context, BATCHES)
            taken[name] = (_allocated() - before) / 2**20
        return context.device.type, interleaved(steps, rounds), taken


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def main() -> None:
    """Measure, append a line for each kind."""
    arguments = parse(Arguments)
    rows, rounds = (1000, 2) if arguments.smoke else (arguments.rows, arguments.rounds)
    shape = Shape(
        (rows,) * 5, (rows,) * 5, dim=64, batch_size=8192, skew=0.9, shared_negatives=1024
    )
    if arguments.smoke:
        shape = dataclasses.replace(shape, batch_size=64, shared_negatives=16)
    (found,) = on_ranks(1, measure, shape, arguments.shares, rounds, arguments.device)
    device, times, taken = found
    for kind, seconds in times.items():
        row = {
            "name": "samples_per_s",
            "kernel": kind,
            **spread([shape.batch_size / one for one in seconds]),
            "device_mb": taken[kind],
            "rows": rows,
            "device": device,
        }
        arguments.report("uvm", row)


if __name__ == "__main__":
    main()
