"""How long each runtime takes for a query tower, and how much memory: export --runtimes.

    dat-rec export --run demo/run --out demo/runtimes --runtimes onnx aotinductor
    python -m benchmarks.runtimes --export demo/runtimes

Users of the export are encoded on one thread, one or many at a time; the runtimes take turns. Times
are of this process's CPU, the fastest of the rounds, and of the runtime alone: tensors in, tensors
out. Memory is that of a process of its own for each runtime.
"""

import importlib
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.record import append, circumstances
from dat_rec.data.dense import AnyColumn
from dat_rec.retrieval.exported import TOWER, Export
from dat_rec.retrieval.runtimes.onnx_file import KINDS
from dat_rec.retrieval.runtimes.runtimes import file_of
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.retrieval.tower_inputs import Inputs, to_inputs


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


ENCODED = 64
"""Number of users that are encoded before memory is read."""
MEMORY = {"own_mb": ("RssAnon", "RssShmem"), "mapped_mb": ("RssFile",), "peak_mb": ("VmHWM",)}
"""What /proc says of a process, in KiB."""
NEEDED = {"onnx": "onnxruntime", "torch.export": "torch.export", "aotinductor": "torch._inductor"}
"""What is imported before memory is first read."""
Call = Callable[[], Any]
Opened = Callable[[Inputs], Call]
"""Takes inputs; what it returns encodes them."""


def main() -> None:
    """Print a line of times for each number of users, and one of memory for each runtime."""
    arguments = tyro.cli(Arguments)
    if arguments.smoke:
        arguments = replace(arguments, rounds=2, calls=3, batches=(1, 8))
    torch.set_num_threads(1)
    export, tower = Export.open(arguments.export), arguments.export / TOWER
    rng = np.random.default_rng(0)

    def some(count: int) -> dict[str, AnyColumn]:
        rows = rng.integers(0, len(export.user_ids), count)
        return {name: column.take(rows) for name, column in export.user_columns.items()}

    opened = {name: function(tower) for name, function in _runtimes(tower).items()}
    for batch in arguments.batches:
        inputs = to_inputs(some(batch))
        calls = {name: take(inputs) for name, take in opened.items()}
        times = _times(calls, arguments.rounds, max(3, arguments.calls // batch))
        _report(arguments, {"users": batch, "ms": times})
    for name in opened:
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            memory = alone.apply(_memory, (name, tower, some(ENCODED)))
        _report(arguments, {"runtime": name, **memory})


def _report(arguments: Arguments, found: dict[str, Any]) -> None:
    append(arguments.out, {"benchmark": "runtimes", **circumstances(), **found})


def _runtimes(tower: Path) -> dict[str, Callable[[Path], Opened]]:
    """What opens each of the tower's files, by the runtime's name."""
    found: dict[str, Callable[[Path], Opened]] = {
        "operators": _operators,
        "torch.export": _torch_export,
    }
    if file_of(tower, "aotinductor").exists():
        found["aotinductor"] = _aotinductor
    if file_of(tower, "onnx").exists():
        found["onnx"] = _onnx
    return found


def _operators(tower: Path) -> Opened:
    module = QueryTower(tower)._module
    return lambda inputs: lambda: module(*inputs)


def _torch_export(tower: Path) -> Opened:
    module = QueryTower(tower, by_torch_export=True)._module
    return lambda inputs: lambda: module(*inputs)


def _aotinductor(tower: Path) -> Opened:
    compiled = torch._inductor.aoti_load_package(str(file_of(tower, "aotinductor")))
    return lambda inputs: lambda: compiled(*inputs)


def _onnx(tower: Path) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = file_of(tower, "onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def take(inputs: Inputs) -> Call:
        given = {
            f"{kind}.{name}": tensor.numpy()
            for kind, one in zip(KINDS, inputs, strict=False)
            for name, tensor in one.items()
        }
        return lambda: session.run(None, given)

    return take


def _memory(name: str, tower: Path, users: dict[str, AnyColumn]) -> dict[str, float]:
    """MB that this process has more when it has opened a runtime's file and encoded users.

    The peak is of all that it held meanwhile.
    """
    torch.set_num_threads(1)
    importlib.import_module(NEEDED.get(name, "torch"))
    Path("/proc/self/clear_refs").write_text("5")  # From here on counts the peak.
    before = _held()
    with torch.no_grad():
        _runtimes(tower)[name](tower)(to_inputs(users))()
    return {what: round(mb - before[what], 1) for what, mb in _held().items()}


def _held() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {
        what: sum(int(kib[name]) for name in names) * 1024 / 1e6 for what, names in MEMORY.items()
    }


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
