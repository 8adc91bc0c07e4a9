"""Each loss against hand-written NumPy loops in float64, and its gradients, stops included."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dat_rec.data.batch import Items
from dat_rec.model.losses import (
    SOFTMAX_BLOCK,
    CategoryMoments,
    SoftmaxBlock,
    binary_cross_entropy,
    category_alignment,
    category_moments,
    mimic,
    most_compared,
    sampled_softmax,
)

B, S, D, K = 7, 3, 5, 4
Array = NDArray[np.float64]


def unit(*shape: int, seed: int = 0) -> Tensor:
    vectors = torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_binary_cross_entropy_is_equation_4() -> None:
    query, item = unit(B, D), unit(B, 1 + S, D, seed=1)
    total = 0.0
    for i in range(B):
        for j in range(1 + S):
            probability = sigmoid(sum(float(query[i, d] * item[i, j, d]) for d in range(D)))
            total -= math.log(probability) if j == 0 else math.log(1 - probability)
    pairs = B * (1 + S)
    found = binary_cross_entropy(query, item, pairs)
    assert found.item() == pytest.approx(total / pairs, abs=1e-12)


def test_binary_cross_entropy_of_orthogonal_vectors_is_ln_2() -> None:
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    item = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]], dtype=torch.float64)
    assert binary_cross_entropy(query, item, 2).item() == pytest.approx(math.log(2), abs=1e-12)


def test_mimic_is_equation_2_over_positive_and_negative_pairs() -> None:
    augmented, item = torch.randn(B, D, dtype=torch.float64), unit(B, 1 + S, D, seed=1)
    total = 0.0
    for i in range(B):
        for j in range(1 + S):
            y = 1.0 if j == 0 else 0.0
            for d in range(D):
                target = float(item[i, j, d])
                total += (y * float(augmented[i, d]) + (1 - y) * target - target) ** 2
    pairs = B * (1 + S)
    assert mimic(augmented, item[:, 0], pairs).item() == pytest.approx(total / pairs, abs=1e-12)


def test_mimic_moves_the_augmented_vector_and_not_its_partner() -> None:
    augmented = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    partner = unit(B, D, seed=1).requires_grad_()
    mimic(augmented, partner, B).backward()
    assert partner.grad is None
    expected = 2 * (augmented - partner) / B
    torch.testing.assert_close(augmented.grad, expected.detach())


def alignment_by_loops(item: Array, category: list[int]) -> float:
    groups: dict[int, list[Array]] = {}
    for vector, kind in zip(item, category, strict=True):
        if kind != 0:
            groups.setdefault(kind, []).append(vector)
    covariances, sizes = {}, {}
    for kind, vectors in groups.items():
        n = len(vectors)
        if n < 2:
            continue
        mean = [sum(vector[d] for vector in vectors) / n for d in range(D)]
        covariances[kind] = [
            [
                sum((vector[a] - mean[a]) * (vector[b] - mean[b]) for vector in vectors) / (n - 1)
                for b in range(D)
            ]
            for a in range(D)
        ]
        sizes[kind] = n
    if not covariances:
        return 0.0
    major = min(sizes, key=lambda kind: (-sizes[kind], kind))
    return sum(
        (covariances[major][a][b] - covariance[a][b]) ** 2
        for covariance in covariances.values()
        for a in range(D)
        for b in range(D)
    )


@pytest.mark.parametrize(
    "category",
    [
        [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3],
        [1, 1, 1, 2, 2, 2, 3, 0, 0, 0, 0, 0],  # equal sizes, a single item, unknown the most
        [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # nothing with a covariance
        [2] * 12,
    ],
)
def test_category_alignment_is_equation_3(category: list[int]) -> None:
    item = unit(12, D, seed=2)
    moments = category_moments(item, torch.tensor(category), K)
    expected = alignment_by_loops(item.numpy(), category)
    assert category_alignment(moments).item() == pytest.approx(expected, abs=1e-12)


def test_category_alignment_of_more_items_than_a_block_holds() -> None:
    item = unit(100, D, seed=2)
    category = torch.randint(0, K, (100,), generator=torch.manual_seed(3)).tolist()
    category[:40] = [2] * 40
    moments = category_moments(item, torch.tensor(category), K)
    expected = alignment_by_loops(item.numpy(), category)
    assert category_alignment(moments).item() == pytest.approx(expected, abs=1e-12)


def alignment_by_autograd(moments: CategoryMoments) -> Tensor:
    """Equation (3), each operation with a tensor and a gradient of its own."""
    usable = (moments.count_K >= 2) & (torch.arange(len(moments.count_K)) > 0)
    n = moments.count_K.clamp(min=2)
    mean = moments.sum_KD / n[:, None]
    scatter = moments.outer_KDD - n[:, None, None] * (mean.unsqueeze(2) * mean.unsqueeze(1))
    covariance = scatter / (n - 1)[:, None, None]
    major = torch.where(usable, moments.count_K, 0).argmax()
    distance = (covariance[major] - covariance).square().sum(dim=(1, 2))
    return torch.where(usable, distance, 0).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("categories", [4, 44, 300])
def test_category_alignment_has_the_bits_of_its_operations_one_by_one(
    categories: int, dtype: torch.dtype
) -> None:
    generator = torch.manual_seed(7)
    item = torch.nn.functional.normalize(torch.randn(600, 32, generator=generator), dim=1)
    category = (torch.rand(600, generator=generator) ** 2 * categories).long()

    def results(alignment: Any) -> tuple[Tensor, ...]:
        leaf = item.to(dtype).requires_grad_()
        moments = category_moments(leaf, category, categories)
        loss = alignment(moments)
        return loss.detach(), *torch.autograd.grad(1.3 * loss, (leaf, *moments[1:]))

    found, expected = results(category_alignment), results(alignment_by_autograd)
    assert found[0] > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


class Sizes(TorchDispatchMode):
    """Of each kind of number, bytes of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[bool, int] = {True: 0, False: 0}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        found = function(*arguments, **(named or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Tensor):
                whole = one.is_floating_point()
                self.most[whole] = max(self.most[whole], one.numel() * one.element_size())
        return found


def test_the_moments_of_compared_categories_stay_below_a_million_numbers_or_64_categories() -> None:
    widths = (8, 16, 32, 64, 128, 512)
    assert [most_compared(width) for width in widths] == [16384, 4096, 1024, 256, 64, 64]


def test_category_moments_of_two_halves_add_up_to_those_of_the_whole() -> None:
    item, category = unit(12, D), torch.randint(0, K, (12,), generator=torch.manual_seed(3))
    whole = category_moments(item, category, K)
    halves = [category_moments(item[part], category[part], K) for part in (slice(5), slice(5, 12))]
    for total, first, second in zip(whole, *halves, strict=True):
        torch.testing.assert_close(total, first + second)


def known(index: list[int] | Tensor, log_q: Tensor | None = None) -> Items:
    index = torch.as_tensor(index)
    return Items(
        index, torch.zeros_like(index), torch.zeros(len(index)) if log_q is None else log_q
    )


def softmax_by_loops(
    query: Array,
    positive: Array,
    candidate: Array,
    items: tuple[Items, Items],
    tau: float,
    w: float,
) -> float:
    total = 0.0
    for i in range(len(query)):
        own = float(query[i] @ positive[i]) / tau - w * float(items[0].log_q[i])
        logits = [own]
        for j in range(len(candidate)):
            if items[1].index[j] != items[0].index[i]:
                score = float(query[i] @ candidate[j])
                logits.append(score / tau - w * float(items[1].log_q[j]))
        total -= own - math.log(sum(math.exp(value) for value in logits))
    return total / len(query)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_sampled_softmax_corrects_and_masks(strength: float) -> None:
    query, positive, candidate = unit(3, D), unit(3, D, seed=2), unit(8, D, seed=1)
    log_q = torch.randn(11, dtype=torch.float64, generator=torch.manual_seed(4))
    items = known([10, 14, 11], log_q[:3]), known([10, 11, 10, 12, 12, 11, 13, 10], log_q[3:])
    found = sampled_softmax(query, positive, candidate, *items, 3, 0.3, strength)
    vectors = (query.numpy(), positive.numpy(), candidate.numpy())
    expected = softmax_by_loops(*vectors, items, 0.3, strength)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_an_own_positive_among_the_candidates_counts_once() -> None:
    query, candidate = unit(3, D), unit(8, D, seed=1)
    items = known([5, 6, 7]), known([5, 6, 7, 1, 2, 3, 4, 5])
    among = sampled_softmax(query, candidate[:3], candidate, *items, 3, 0.3)
    others = [[1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6, 7], [0, 1, 3, 4, 5, 6, 7]]
    apart = [
        sampled_softmax(
            query[i : i + 1],
            candidate[i : i + 1],
            candidate[rest],
            known([5 + i]),
            known(items[1].index[rest]),
            3,
            0.3,
        )
        for i, rest in enumerate(others)
    ]
    assert among.item() == pytest.approx(sum(loss.item() for loss in apart), abs=1e-12)


@pytest.mark.parametrize(
    "block",
    [
        # Rows are three cache lines long: two queries at a time, the last alone.
        SoftmaxBlock(2 * 24, 9, 2**10),
        # Of one line: two queries; of five candidates and then of four.
        SoftmaxBlock(2 * 8, 5, 2**10),
        # As many logits as one query has.
        SoftmaxBlock(2 * 8, 5, 2 * 8),
    ],
)
@pytest.mark.parametrize("rising", [1, -1])
def test_sampled_softmax_in_blocks_has_the_gradient_of_the_whole(
    block: SoftmaxBlock, rising: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> tuple[Tensor, ...]:
        leaves = [unit(n, D, seed=n).requires_grad_() for n in (7, 8, 9)]
        query, positive, candidate = leaves[0], leaves[1][:7], leaves[2]
        items = torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1])
        log_q = rising * torch.arange(9, dtype=torch.float64)
        softmax = sampled_softmax(
            query, positive, candidate, known(items[:7], log_q[:7]), known(items, log_q), 7, 0.3
        )
        return softmax.detach(), *torch.autograd.grad(3 * softmax, leaves)

    whole = gradients()
    monkeypatch.setitem(SOFTMAX_BLOCK, "cpu", block)
    torch.testing.assert_close(gradients(), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_hits_take_no_more_memory_than_a_block_of_logits_however_many_there_are(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed for all queries at once they were 40 bytes each: 150 times a block's logits here."""
    block = SoftmaxBlock(2**14, 2**8, 2**26)
    monkeypatch.setitem(SOFTMAX_BLOCK, "cpu", block)
    queries, candidates = 256, 4096
    query, candidate = unit(queries, D), unit(candidates, D, seed=1)
    items = torch.arange(candidates)
    items[torch.rand(candidates, generator=torch.manual_seed(2)) < share] = 0
    own = torch.zeros(queries, dtype=torch.int64)
    with Sizes() as sizes:
        loss = sampled_softmax(
            query, candidate[:queries], candidate, known(own), known(items), queries, 0.3
        )
    assert sizes.most[False] <= 8 * block.logits
    logits = query @ candidate.T / 0.3
    logits[:, items == 0] = -math.inf
    mine = (query * candidate[:queries]).sum(dim=1, keepdim=True) / 0.3
    expected = (torch.cat([mine, logits], dim=1).logsumexp(dim=1) - mine[:, 0]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)


def test_sampled_softmax_of_equal_scores_is_ln_n() -> None:
    query = torch.ones(2, 1, dtype=torch.float64)
    candidate = torch.ones(6, 1, dtype=torch.float64)
    items = known([0, 1]), known(list(range(6)))
    loss = sampled_softmax(query, candidate[:2], candidate, *items, 2, 0.1)
    assert loss.item() == pytest.approx(math.log(6), abs=1e-12)


@pytest.mark.parametrize("candidates", [2, 1])
def test_sampled_softmax_holds_for_far_apart_logits(
    candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOFTMAX_BLOCK, "cpu", SoftmaxBlock(2**10, candidates, 2**10))
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    candidate = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    for own, expected in ((0, 2e4), (1, 0.0)):
        items = known([own]), known([0, 1])
        loss = sampled_softmax(query, candidate[own : own + 1], candidate, *items, 1, 1e-4)
        assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_a_hit_far_above_all_that_counts_does_not_count() -> None:
    """As where id dropout embeds a positive otherwise than its item among the candidates."""
    query = torch.tensor([[1.0, 0.0]])
    positive = torch.tensor([[-0.1, 0.99**0.5]]).requires_grad_()
    candidate = torch.tensor([[1.0, 0.0], [-0.2, 0.96**0.5]]).requires_grad_()
    items = known([3]), known([3, 4])
    loss = sampled_softmax(query, positive, candidate, *items, 1, 0.01)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-2)
    for gradient in torch.autograd.grad(loss, (positive, candidate)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("candidates", [2, 0])
def test_without_other_items_the_softmax_costs_nothing(candidates: int) -> None:
    query, positive = unit(2, D).requires_grad_(), unit(2, D, seed=1).requires_grad_()
    items = known([3, 3]), known([3] * candidates)
    loss = sampled_softmax(query, positive, positive[:candidates], *items, 2, 0.1)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, (query, positive)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_parts_of_the_queries_add_up_to_the_whole_and_none_add_nothing() -> None:
    query, item = unit(B, D), unit(B, 1 + S, D, seed=1)
    candidate, items = unit(9, D, seed=2), torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1])
    log_q = torch.arange(9, dtype=torch.float64)

    def losses(part: slice) -> Tensor:
        own = known(items[:B][part], log_q[:B][part])
        softmax = sampled_softmax(
            query[part], candidate[:B][part], candidate, own, known(items, log_q), B, 0.3
        )
        return torch.stack([softmax, binary_cross_entropy(query[part], item[part], B * (1 + S))])

    parts = [losses(part) for part in (slice(0, 3), slice(3, 3), slice(3, B))]
    torch.testing.assert_close(sum(parts), losses(slice(None)), rtol=0, atol=1e-12)
    assert parts[1].tolist() == [0, 0]


def test_gradients_agree_with_differences() -> None:
    query = unit(B, D).requires_grad_()
    item = unit(B, 1 + S, D, seed=1).requires_grad_()
    category = torch.randint(0, K, (B * (1 + S),), generator=torch.manual_seed(3))
    items = torch.randint(0, 9, (B * (1 + S),), generator=torch.manual_seed(5))

    def softmax(query: Tensor, item: Tensor) -> Tensor:
        own = known(items[:: 1 + S].contiguous())
        return sampled_softmax(query, item[:, 0], item.flatten(0, 1), own, known(items), B, 0.2)

    def alignment(item: Tensor) -> Tensor:
        return category_alignment(category_moments(item.flatten(0, 1), category, K))

    assert torch.autograd.gradcheck(lambda *x: binary_cross_entropy(*x, 3.5), (query, item))
    assert torch.autograd.gradcheck(softmax, (query, item))
    assert torch.autograd.gradcheck(alignment, (item,))
    many, kinds = unit(40, 2, seed=6).requires_grad_(), torch.tensor([1] * 35 + [2] * 5)
    assert torch.autograd.gradcheck(
        lambda item: category_alignment(category_moments(item, kinds, 3)), (many,)
    )
