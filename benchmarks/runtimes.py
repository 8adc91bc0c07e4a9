"""How long each runtime takes for a query tower: export --runtimes.

    dat-rec export --run demo/run --out demo/runtimes --runtimes onnx aotinductor
    python -m benchmarks.runtimes --export demo/runtimes

Users of the export are encoded on one thread, one or many at a time; the runtimes take turns. Times
are of this process's CPU, the fastest of the rounds, and of the runtime alone: tensors in, tensors
out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.record import append, circumstances
from dat_rec.retrieval.exported import TOWER, Export
from dat_rec.retrieval.runtimes.onnx_file import KINDS
from dat_rec.retrieval.runtimes.runtimes import file_of
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.retrieval.tower_inputs import to_inputs


@dataclass(frozen=True)
class Arguments:
    """Which export, and how often it is asked."""

    export: Path
    """Of `dat-rec export --runtimes onnx aotinductor`."""
    batches: tuple[int, ...] = (1, 64, 1024)
    """Users at a time."""
    rounds: int = 7
    calls: int = 100
    """Of each runtime in a round, with one user; with many, fewer."""
    smoke: bool = False
    """A few calls, to see that it runs."""
    out: Path | None = None
    """JSON lines are added to it."""


def main() -> None:
    """Print a line of times for each number of users."""
    arguments = tyro.cli(Arguments)
    if arguments.smoke:
        arguments = replace(arguments, rounds=2, calls=3, batches=(1, 8))
    torch.set_num_threads(1)
    opened = Export.open(arguments.export)
    rng = np.random.default_rng(0)
    for batch in arguments.batches:
        rows = rng.integers(0, len(opened.user_ids), batch)
        users = {name: column.take(rows) for name, column in opened.user_columns.items()}
        calls = _calls(arguments.export / TOWER, to_inputs(users))
        append(
            arguments.out,
            {
                "benchmark": "runtimes",
                **circumstances(),
                "users": batch,
                "ms": _times(calls, arguments.rounds, max(3, arguments.calls // batch)),
            },
        )


def _calls(tower: Path, inputs: tuple[dict[str, torch.Tensor], ...]) -> dict[str, Any]:
    """One call of each runtime that the tower was written for, by its name."""
    ours = QueryTower(tower)._module
    loaded = QueryTower(tower, by_torch_export=True)._module
    calls = {"operators": lambda: ours(*inputs), "torch.export": lambda: loaded(*inputs)}
    if (path := file_of(tower, "aotinductor")).exists():
        compiled = torch._inductor.aoti_load_package(str(path))
        calls["aotinductor"] = lambda: compiled(*inputs)
    if (path := file_of(tower, "onnx")).exists():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = {
            f"{kind}.{name}": tensor.numpy()
            for kind, one in zip(KINDS, inputs, strict=False)
            for name, tensor in one.items()
        }
        calls["onnx"] = lambda: session.run(None, given)
    return calls


@torch.no_grad()
def _times(calls: dict[str, Callable[[], Any]], rounds: int, count: int) -> dict[str, float]:
    """Milliseconds of CPU that a call takes, by the runtime's name."""
    best = dict.fromkeys(calls, np.inf)
    for _ in range(rounds + 1):  # The first warms up.
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(count):
                call()
            best[name] = min(best[name], (time.process_time() - start) / count)
    return {name: round(1e3 * seconds, 4) for name, seconds in best.items()}


if __name__ == "__main__":
    main()
