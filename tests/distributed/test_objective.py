"""The objective on uneven ranks, one of them empty, against one process on all examples.

In float64, and with padding of NaN: whatever takes a part of it shows.
"""

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from dat_rec.config import LossConfig
from dat_rec.model.dat import DATOutput
from dat_rec.parallel.process_group import process_group
from dat_rec.train.objective import Objective
from tests.distributed.ranks import run_ranks

ROWS, S, D, K = 5, 2, 4, 3
LOSSES = {
    "softmax": LossConfig(negatives=S, temperature=0.3),
    "bce": LossConfig(main="bce", negatives=S),
}
COUNTS = {2: [(5, 5), (3, 4), (0, 4)], 3: [(4, 5, 3), (4, 0, 1), (0, 0, 4)]}
"""By world size: how many of its ROWS rows are examples, on each rank."""
Result = tuple[Tensor, Tensor, list[Tensor]]
"""Loss, its terms, and the gradients of p_u, p_v, a_u, a_v."""


def inputs(examples: int) -> tuple[list[Tensor], list[Tensor]]:
    """The model's output as one process has it; item_index, category and log_q."""
    generator = torch.manual_seed(examples)
    shapes = [(examples, D), (examples, 1 + S, D), (examples, D), (examples, D)]
    output = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    items = torch.randint(0, 9, (examples, 1 + S), generator=generator)
    log_q = torch.randn(examples, 1 + S, dtype=torch.float64, generator=generator)
    return output, [items, items % K, log_q]


def padded(part: Tensor) -> Tensor:
    """NaN in ROWS - len(part) rows more; item 3, of a category that counts, for integers."""
    fill = float("nan") if part.is_floating_point() else 3 * K + 1
    return torch.cat([part, part.new_full((ROWS - len(part), *part.shape[1:]), fill)])


def evaluate(
    loss: LossConfig, output: list[Tensor], rest: list[Tensor], counts: tuple[int, ...]
) -> Result:
    leaves = [tensor.clone().requires_grad_() for tensor in output]
    value, terms = Objective(loss, 3 * K + 2)(DATOutput(*leaves), *rest, counts)
    value.backward()
    return value.detach(), terms, [leaf.grad for leaf in leaves if leaf.grad is not None]


def on_one_rank() -> dict[tuple[str, tuple[int, ...]], Result]:
    with process_group(60) as place:
        results = {}
        for name, counts in product(LOSSES, COUNTS[place.world_size]):
            first = sum(counts[: place.rank])
            mine = slice(first, first + counts[place.rank])
            parts = [[padded(x[mine]) for x in tensors] for tensors in inputs(sum(counts))]
            results[name, counts] = evaluate(LOSSES[name], *parts, counts)
        return results


@pytest.mark.parametrize("world", COUNTS)
def test_uneven_ranks_have_together_the_loss_and_the_gradients_of_one(world: int) -> None:
    equal = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    ranks = run_ranks(on_one_rank, world)
    for name, counts in product(LOSSES, COUNTS[world]):
        with process_group(60):
            whole = evaluate(LOSSES[name], *inputs(sum(counts)), (sum(counts),))
        results = [rank[name, counts] for rank in ranks]
        equal(torch.stack([result[0] for result in results]).mean(), whole[0])
        equal(torch.stack([result[1] for result in results]).mean(dim=0), whole[1])
        assert whole[1].all(), "a term that is zero shows nothing"
        for number, gradient in enumerate(whole[2]):
            pieces = [result[2][number] for result in results]
            own = [piece[:count] for piece, count in zip(pieces, counts, strict=True)]
            # The average over ranks is what DDP and TorchRec make of the ranks' gradients.
            equal(torch.cat(own) / world, gradient)
            for piece, count in zip(pieces, counts, strict=True):
                assert not piece[count:].any()
