"""Each loss against hand-written NumPy loops in float64, and its gradients, stops included."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.model.losses import (
    CHUNK,
    binary_cross_entropy,
    category_alignment,
    category_moments,
    mimic,
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


def test_category_moments_of_two_halves_add_up_to_those_of_the_whole() -> None:
    item, category = unit(12, D), torch.randint(0, K, (12,), generator=torch.manual_seed(3))
    whole = category_moments(item, category, K)
    halves = [category_moments(item[part], category[part], K) for part in (slice(5), slice(5, 12))]
    for total, first, second in zip(whole, *halves, strict=True):
        torch.testing.assert_close(total, first + second)


def softmax_by_loops(
    query: Array,
    candidate: Array,
    own: list[int],
    items: list[int],
    log_q: Array,
    tau: float,
    w: float,
) -> float:
    total = 0.0
    for i, mine in enumerate(own):
        logits = {}
        for j in range(len(candidate)):
            if items[j] != items[mine] or j == mine:
                logits[j] = float(query[i] @ candidate[j]) / tau - w * log_q[j]
        total -= logits[mine] - math.log(sum(math.exp(value) for value in logits.values()))
    return total / len(own)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_sampled_softmax_corrects_and_masks(strength: float) -> None:
    query, candidate = unit(3, D), unit(8, D, seed=1)
    own, items = [0, 3, 5], [10, 11, 10, 12, 12, 11, 13, 10]
    log_q = torch.randn(8, dtype=torch.float64, generator=torch.manual_seed(4))
    found = sampled_softmax(
        query, candidate, torch.tensor(own), torch.tensor(items), log_q, 3, 0.3, strength
    )
    expected = softmax_by_loops(
        query.numpy(), candidate.numpy(), own, items, log_q.numpy(), 0.3, strength
    )
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_sampled_softmax_in_chunks_has_the_gradient_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gradients() -> tuple[Tensor, ...]:
        query, candidate = unit(7, D).requires_grad_(), unit(9, D, seed=1).requires_grad_()
        items = torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1])
        log_q = torch.arange(9, dtype=torch.float64)
        loss = sampled_softmax(query, candidate, torch.arange(7), items, log_q, 7, 0.3)
        return loss.detach(), *torch.autograd.grad(3 * loss, (query, candidate))

    whole = gradients()
    monkeypatch.setitem(CHUNK, "cpu", 2 * 9 + 1)  # two queries at a time, the last alone
    torch.testing.assert_close(gradients(), whole, rtol=0, atol=1e-12)


def test_sampled_softmax_of_equal_scores_is_ln_n() -> None:
    query = torch.ones(2, 1, dtype=torch.float64)
    candidate = torch.ones(6, 1, dtype=torch.float64)
    equal = torch.zeros(6, dtype=torch.float64)
    loss = sampled_softmax(query, candidate, torch.tensor([0, 1]), torch.arange(6), equal, 2, 0.1)
    assert loss.item() == pytest.approx(math.log(6), abs=1e-12)


def test_parts_of_the_queries_add_up_to_the_whole_and_none_add_nothing() -> None:
    query, item = unit(B, D), unit(B, 1 + S, D, seed=1)
    candidate, items = unit(9, D, seed=2), torch.tensor([1, 1, 2, 3, 3, 4, 5, 6, 1])
    log_q, own = torch.arange(9, dtype=torch.float64), torch.arange(B)

    def losses(part: slice) -> Tensor:
        softmax = sampled_softmax(query[part], candidate, own[part], items, log_q, B, 0.3)
        return torch.stack([softmax, binary_cross_entropy(query[part], item[part], B * (1 + S))])

    parts = [losses(part) for part in (slice(0, 3), slice(3, 3), slice(3, B))]
    torch.testing.assert_close(sum(parts), losses(slice(None)), rtol=0, atol=1e-12)
    assert parts[1].tolist() == [0, 0]


def test_gradients_agree_with_differences() -> None:
    query = unit(B, D).requires_grad_()
    item = unit(B, 1 + S, D, seed=1).requires_grad_()
    category = torch.randint(0, K, (B * (1 + S),), generator=torch.manual_seed(3))
    items = torch.randint(0, 9, (B * (1 + S),), generator=torch.manual_seed(5))
    log_q = torch.zeros(B * (1 + S), dtype=torch.float64)
    own = torch.arange(B) * (1 + S)

    def softmax(query: Tensor, item: Tensor) -> Tensor:
        return sampled_softmax(query, item.flatten(0, 1), own, items, log_q, B, 0.2)

    def alignment(item: Tensor) -> Tensor:
        return category_alignment(category_moments(item.flatten(0, 1), category, K))

    assert torch.autograd.gradcheck(lambda *x: binary_cross_entropy(*x, 3.5), (query, item))
    assert torch.autograd.gradcheck(softmax, (query, item))
    assert torch.autograd.gradcheck(alignment, (item,))
    many, kinds = unit(40, 2, seed=6).requires_grad_(), torch.tensor([1] * 35 + [2] * 5)
    assert torch.autograd.gradcheck(
        lambda item: category_alignment(category_moments(item, kinds, 3)), (many,)
    )
