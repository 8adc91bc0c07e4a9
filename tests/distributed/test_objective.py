"""The objective on uneven ranks, one of them empty, against one process on all examples.

In float64, and with padding of NaN: whatever takes a part of it shows.
"""

from functools import partial
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from dat_rec.config import LossConfig
from dat_rec.data.stream.batch import Items
from dat_rec.dist.process_group import process_group
from dat_rec.model.dat import DATOutput
from dat_rec.training.objective import Exchange, Objective
from tests.distributed.ranks import run_ranks

ROWS, S, D, K = 5, 2, 4, 3
SHARED = 11
LOSSES = {
    "softmax": LossConfig(negatives=S, temperature=0.3),
    "learned temperature": LossConfig(negatives=S, temperature=0.3, learn_temperature=True),
    "negatives alone": LossConfig(negatives=S, in_batch=False, temperature=0.3),
    "shared negatives": LossConfig(shared_negatives=SHARED, temperature=0.3),
    "shared negatives alone": LossConfig(shared_negatives=SHARED, in_batch=False, temperature=0.3),
    "own positive for itself": LossConfig(negatives=S, temperature=0.3, own_log_q=False),
    "queue": LossConfig(negatives=S, temperature=0.3, own_log_q=False, queue=2),
    "contrastive, queue": LossConfig(
        main="contrastive", negatives=S, in_batch=False, margin=0.2, queue=1
    ),
    "contrastive": LossConfig(main="contrastive", negatives=S, margin=0.2, negative_weight=3),
    "contrastive, shared negatives": LossConfig(main="contrastive", shared_negatives=SHARED),
    "bpr": LossConfig(main="bpr", negatives=S, temperature=0.3, learn_temperature=True),
    "bce": LossConfig(main="bce", negatives=S),
}
COUNTS = {2: [(5, 5), (3, 4), (0, 4)], 3: [(4, 5, 3), (4, 0, 1), (0, 0, 4)]}
"""By world size: how many of its ROWS rows are examples, on each rank."""
WEIGHTED = (False, True)
NEGATIVE = 2
"""Place of the negatives' gradient in a result."""
Result = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]
"""Loss, its terms, the gradients of p_u, p_v of positives and negatives, a_u, a_v, and those of
what the objective learns."""
Counts = tuple[tuple[int, ...], tuple[int, ...]]
"""Examples and negatives of each rank."""


def counts_of(loss: LossConfig, examples: tuple[int, ...]) -> Counts:
    if not loss.shared_negatives:
        return examples, tuple(S * count for count in examples)
    ends = [rank * SHARED // len(examples) for rank in range(len(examples) + 1)]
    return examples, tuple(b - a for a, b in pairwise(ends))


def inputs(counts: Counts) -> tuple[list[Tensor], list[Tensor]]:
    """What one process has, a row for each example: p_u, p_v, a_u, a_v, item, category, offset.

    And its weight. Then what it has with a row for each negative: p_v, item, category, offset.
    """
    examples, negatives = (sum(each) for each in counts)
    generator = torch.manual_seed(10 * examples + negatives)
    vectors = [
        torch.randn(rows, D, dtype=torch.float64, generator=generator)
        for rows in (examples, examples, examples, examples, negatives)
    ]
    known = []
    for rows in (examples, negatives):
        items = torch.randint(0, 9, (rows,), generator=generator)
        offset = torch.randn(rows, dtype=torch.float64, generator=generator)
        known.append([items, items % K, offset])
    # As float32, in which the reader has them: no sum of these is exact in it.
    weight = torch.rand(examples, generator=generator) + 0.1
    return [*vectors[:4], *known[0], weight], [vectors[4], *known[1]]


def padded(part: Tensor, rows: int) -> Tensor:
    """NaN in what is missing to ``rows``; item 3, of a category that counts, for integers."""
    fill = float("nan") if part.is_floating_point() else 3 * K + 1
    return torch.cat([part, part.new_full((rows - len(part), *part.shape[1:]), fill)])


def evaluate(
    loss: LossConfig,
    examples: list[Tensor],
    negatives: list[Tensor],
    counts: Counts,
    weighted: bool,
) -> Result:
    p_u, p_v, a_u, a_v = examples[:4]
    leaves = [tensor.clone().requires_grad_() for tensor in (p_u, p_v, negatives[0], a_u, a_v)]
    output, positives = DATOutput(*leaves), Items(*examples[4:7])
    weight = examples[7] if weighted else None
    objective, exchange = Objective(loss, torch.float64), Exchange(loss, 3 * K + 2)
    # Batches that went before matter to a queue alone.
    for before in range(-loss.queue - 1, 0):
        earlier = DATOutput(*(leaf.detach() * before for leaf in leaves))
        sent = exchange(
            earlier.item_BD, earlier.negative_ND, positives, Items(*negatives[1:]), *counts, weight
        )
        objective(earlier, sent, positives, *counts, weight)
    everywhere = exchange(
        output.item_BD, output.negative_ND, positives, Items(*negatives[1:]), *counts, weight
    )
    value, terms = objective(output, everywhere, positives, *counts, weight)
    value.backward()
    learned = list(objective.parameters())
    assert len(learned) == loss.learn_temperature
    gradients = ([x.grad for x in leaf if x.grad is not None] for leaf in (leaves, learned))
    return value.detach(), terms, *gradients


def on_one_rank() -> dict[tuple[str, tuple[int, ...], bool], Result]:
    with process_group(60) as context:
        results = {}
        for name, counts, weighted in product(LOSSES, COUNTS[context.world_size], WEIGHTED):
            both = counts_of(LOSSES[name], counts)
            parts = []
            rows = -(-SHARED // context.world_size) if LOSSES[name].shared_negatives else S * ROWS
            for tensors, each, most in zip(inputs(both), both, (ROWS, rows), strict=True):
                first = sum(each[: context.rank])
                mine = slice(first, first + each[context.rank])
                parts.append([padded(x[mine], most) for x in tensors])
            results[name, counts, weighted] = evaluate(LOSSES[name], *parts, both, weighted)
        return results


@pytest.mark.parametrize("world", COUNTS)
def test_uneven_ranks_have_together_the_loss_and_the_gradients_of_one(world: int) -> None:
    equal = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    ranks = run_ranks(on_one_rank, world)
    for name, counts, weighted in product(LOSSES, COUNTS[world], WEIGHTED):
        with process_group(60):
            both = counts_of(LOSSES[name], counts)
            alone = tuple((sum(c),) for c in both)
            whole = evaluate(LOSSES[name], *inputs(both), alone, weighted)
        results = [rank[name, counts, weighted] for rank in ranks]
        equal(torch.stack([result[0] for result in results]).mean(), whole[0])
        equal(torch.stack([result[1] for result in results]).mean(dim=0), whole[1])
        assert whole[1].all(), "a term that is zero shows nothing"
        for number, gradient in enumerate(whole[3]):
            assert gradient.any()
            equal(torch.stack([result[3][number] for result in results]).mean(dim=0), gradient)
        for number, gradient in enumerate(whole[2]):
            pieces = [result[2][number] for result in results]
            each = both[number == NEGATIVE]
            own = [piece[:count] for piece, count in zip(pieces, each, strict=True)]
            # The average over ranks is what MeanGradients and TorchRec make of them.
            equal(torch.cat(own) / world, gradient)
            for piece, count in zip(pieces, each, strict=True):
                assert not piece[count:].any()
