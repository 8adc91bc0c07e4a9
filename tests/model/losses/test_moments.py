"""What ranks exchange for equation (3): how much it is at most, and that it adds up."""

import torch

from dat_rec.model.losses import category_moments, max_categories
from tests.model.losses.vectors import D, K, unit


def test_the_moments_of_compared_categories_stay_below_a_million_numbers_or_64_categories() -> None:
    widths = (8, 16, 32, 64, 128, 512)
    assert [max_categories(width) for width in widths] == [16384, 4096, 1024, 256, 64, 64]


def test_category_moments_of_two_halves_add_up_to_those_of_the_whole() -> None:
    item, category = unit(12, D), torch.randint(0, K, (12,), generator=torch.manual_seed(3))
    whole = category_moments(item, category, K)
    halves = [category_moments(item[part], category[part], K) for part in (slice(5), slice(5, 12))]
    for total, first, second in zip(whole, *halves, strict=True):
        torch.testing.assert_close(total, first + second)
