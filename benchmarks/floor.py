"""The least that a step could take here: its products at the best rate, its tables' bytes copied.

The products are counted as they run, by dtype; their rate is that of one large product by the
quickest library at hand. Of the tables, each row that a batch names is read once, in the forward
pass, and once read and once written when it is updated, with its optimizer's one float32; the rate
is that of a copy of memory that no cache holds.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.shapes import Shape
from dat_rec.data.schema import ITEM, USER
from dat_rec.data.stream.batch import Batch
from dat_rec.model.products import has_onednn, product

SIZE = 512
"""Rows and columns of the matrices whose product gives the rate."""
COPIED = 2**26
"""Bytes that are copied to know the memory's rate."""
TURNS = 7
IN_PLACE = {torch.ops.aten.addmm_: torch.ops.aten.addmm}
"""The softmax's operator that PyTorch's registry lacks, and the one that counts alike."""


class Products(TorchDispatchMode):
    """Counts floating-point operations of matrix products, by the dtype of their numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: dict[torch.dtype, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count it."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(IN_PLACE.get(func.overloadpacket, func.overloadpacket))
        if count is not None:
            dtype = next(one.dtype for one in args if isinstance(one, Tensor))
            self.operations[dtype] += count(*args, **(kwargs or {}), out_val=result)
        return result


def products_of(step: Callable[[], object]) -> dict[torch.dtype, int]:
    """Operations of one step, by dtype: a multiplication and an addition are two."""
    with Products() as counted:
        step()
    return dict(counted.operations)


def rate_of_products(dtype: torch.dtype) -> float:
    """Operations a second of one large product, by the quickest library; this thread's CPU time."""
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    ways: list[Callable[[], object]] = [lambda: a @ b]
    if dtype == torch.float32 and has_onednn():
        ways.append(lambda: product(a, b))
    return max(2 * SIZE**3 / _seconds(way) for way in ways)


def rate_of_copies() -> float:
    """Bytes read and written a second of a copy of memory; this thread's CPU time."""
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * COPIED / _seconds(lambda: target.copy_(source))


def _seconds(way: Callable[[], object]) -> float:
    """The least CPU time of this thread."""
    found = []
    for _ in range(TURNS):
        begin = time.thread_time()
        way()
        found.append(time.thread_time() - begin)
    return min(found)


def bytes_of_tables(batch: Batch, shape: Shape, augmented: int) -> int:
    """Bytes that a batch's lookups and updates must move.

    Args:
        batch: the batch.
        shape: of the model.
        augmented: columns of the tables of augmented vectors.
    """
    widths = {feature.name: shape.dim for feature in shape.schema().features}
    for name in (USER, ITEM):
        widths[name] += augmented
    values: dict[str, list[Tensor]] = defaultdict(list)
    for key, of_key in batch.features.to_dict().items():
        values[key.partition("@")[0]].append(of_key.values())
    read = sum(widths[name] * len(ids) for name, parts in values.items() for ids in parts)
    updated = sum((widths[name] + 1) * len(torch.cat(ids).unique()) for name, ids in values.items())
    return 4 * read + 8 * updated


def floor(step: Callable[[], object], bytes_moved: int) -> dict[str, float]:
    """What a step of this thread could take at least, in milliseconds.

    Args:
        step: makes one step.
        bytes_moved: of ``bytes_of_tables``.

    Returns:
        ``products_ms``, ``tables_ms``, ``floor_ms``, and rates: ``gflops_DTYPE``, ``copy_gb_s``.
    """
    found: dict[str, float] = {"copy_gb_s": rate_of_copies() / 1e9}
    found["tables_ms"] = bytes_moved / found["copy_gb_s"] / 1e6
    found["products_ms"] = 0.0
    for dtype, operations in products_of(step).items():
        name = str(dtype).removeprefix("torch.")
        found[f"gflops_{name}"] = rate_of_products(dtype) / 1e9
        found["products_ms"] += operations / found[f"gflops_{name}"] / 1e6
    found["floor_ms"] = found["products_ms"] + found["tables_ms"]
    return found
