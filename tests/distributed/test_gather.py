"""Gradients across ranks against one process on the whole batch, in float64."""

from functools import partial

import torch
from torch import Tensor

from dat_rec.dist.process_group import process_group
from dat_rec.model.losses import CategoryMoments, category_alignment, category_moments
from dat_rec.sharding.gather import gather_rows, sum_over_ranks
from tests.distributed.ranks import run_ranks

B, D, K = 6, 4, 3


def inputs(world: int) -> tuple[Tensor, Tensor]:
    generator = torch.manual_seed(0)
    items = torch.randn(world * B, D, dtype=torch.float64, generator=generator)
    return items, torch.randint(0, K, (world * B,), generator=generator)


def contrast(local: Tensor, everything: Tensor, first: int) -> Tensor:
    """An in-batch softmax: each local row against the rows of all ranks."""
    own = torch.arange(len(local)) + first
    return torch.nn.functional.cross_entropy(local @ everything.T, own)


def on_one_rank(world: int) -> tuple[Tensor, Tensor, Tensor]:
    with process_group(60) as context:
        items, category = inputs(world)
        mine = slice(context.rank * B, (context.rank + 1) * B)
        local = items[mine].clone().requires_grad_()
        arrive_everything = gather_rows(local)
        arrive_moments = sum_over_ranks(category_moments(local, category[mine], K))
        main = contrast(local, arrive_everything(), context.rank * B)
        alignment = category_alignment(CategoryMoments(*arrive_moments()))
        (main + alignment).backward()
        assert local.grad is not None
        return main.detach(), alignment.detach(), local.grad


def check(world: int) -> None:
    items, category = inputs(world)
    items.requires_grad_()
    alignment = category_alignment(category_moments(items, category, K))
    main = contrast(items, items, 0)
    (main + alignment).backward()
    assert items.grad is not None
    ranks = run_ranks(on_one_rank, world, world)
    mean = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    mean(torch.stack([rank[0] for rank in ranks]).mean(), main.detach())
    for rank in ranks:
        mean(rank[1], alignment.detach())
    # The average over ranks is what MeanGradients and TorchRec make of the ranks' gradients.
    mean(torch.cat([rank[2] for rank in ranks]) / world, items.grad)


def test_global_losses_and_gradients_at_world_2() -> None:
    check(2)


def order_of_backward() -> list[str]:
    events: list[str] = []
    with process_group(60):
        items, queries = (torch.ones(B, D, requires_grad=True) for _ in range(2))
        arrive = gather_rows(items)
        between = 2 * queries
        everything = arrive()
        everything.register_hook(lambda _: events.append("leaves"))
        between.register_hook(lambda _: events.append("between"))
        items.register_hook(lambda _: events.append("arrived"))
        (everything.sum() + between.sum()).backward()
    return events


def test_a_gradient_travels_while_what_lies_between_the_ends_is_computed() -> None:
    assert run_ranks(order_of_backward, 2) == [["leaves", "between", "arrived"]] * 2
