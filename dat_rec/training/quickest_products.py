"""Find out by which library this machine multiplies the towers' matrices fastest."""

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from dat_rec.files import write_json
from dat_rec.model.products import Library, has_onednn, product

GAIN = 1.2
"""How many times as fast oneDNN must be: where both are alike, chance must not choose, for the
bits of a run would be chance's too."""
ROWS, WIDTH, OUTPUTS = 2048, 320, 256
TURNS = 12


def quickest(cache: Path | None = None) -> Library:
    """The library for this processor and PyTorch.

    It is measured once, and kept where there is a place.

    Args:
        cache: file that keeps it; None: ``dat_rec/products.json`` in the user's cache folder.
    """
    if not has_onednn():
        return "mkl"
    path = _cache() if cache is None else cache
    if path is None:
        return _measured()
    key = f"{processor()}, torch {torch.__version__}"
    found: dict[str, Library] = {}
    with suppress(OSError, ValueError, TypeError):
        found = dict(json.loads(path.read_text()))
    if found.get(key) not in ("mkl", "onednn"):
        found[key] = _measured()
        with suppress(OSError):  # measured anew by the next run
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
    return found[key]


def _measured() -> Library:
    return "onednn" if gain() >= GAIN else "mkl"


def gain() -> float:
    """How many times as fast as PyTorch's own way oneDNN is, forward and both gradients.

    Of one thread's CPU time the least of several turns, so that other work hardly counts.
    """
    generator = torch.Generator().manual_seed(0)
    rows_NF = torch.randn(ROWS, WIDTH, generator=generator)
    weight_DF = torch.randn(OUTPUTS, WIDTH, generator=generator)
    gradient_ND = torch.randn(ROWS, OUTPUTS, generator=generator)
    pairs = ((rows_NF, weight_DF), (gradient_ND, weight_DF.T), (gradient_ND.T, rows_NF.T))
    own, by_onednn = ([float("inf")] * len(pairs) for _ in range(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(TURNS):
            for number, pair in enumerate(pairs):
                own[number] = min(own[number], _seconds(_by_blas, *pair))
                by_onednn[number] = min(by_onednn[number], _seconds(product, *pair))
    finally:
        torch.set_num_threads(threads)
    return sum(own) / sum(by_onednn)


def _by_blas(left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right.T)


def _seconds(multiply: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> float:
    begin = time.thread_time()
    multiply(left, right)
    return time.thread_time() - begin


def _cache() -> Path | None:
    """The file in the user's cache folder; None where there is none, as in some containers."""
    with suppress(RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # The XDG specification passes over relative paths; "" is the home of nobody.
        if folder.is_absolute() and folder != Path("/.cache"):
            return folder / "dat_rec" / "products.json"
    return None


def processor() -> str:
    """What the processor is called, and which of its instructions PyTorch uses."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
