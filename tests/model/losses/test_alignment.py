"""Equation (3) against hand-written NumPy loops and autograd's own gradient, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.model.losses import CategoryMoments, category_alignment, category_moments
from tests.model.losses.vectors import B, D, K, S, unit

Array = NDArray[np.float64]


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


def test_gradients_agree_with_differences() -> None:
    item = unit(B * (1 + S), D, seed=1).requires_grad_()
    category = torch.randint(0, K, (B * (1 + S),), generator=torch.manual_seed(3))
    many, kinds = unit(40, 2, seed=6).requires_grad_(), torch.tensor([1] * 35 + [2] * 5)
    for vectors, categories, number in ((item, category, K), (many, kinds, 3)):

        def alignment(item: Tensor, category: Tensor = categories, number: int = number) -> Tensor:
            return category_alignment(category_moments(item, category, number))

        assert torch.autograd.gradcheck(alignment, (vectors,))
