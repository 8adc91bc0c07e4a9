"""The queue of earlier batches' candidates: what is in it, for how long, and its state."""

import pytest
import torch
from torch import Tensor

from dat_rec.data.stream.batch import Items
from dat_rec.model.losses import CandidateQueue, cosine_contrastive
from tests.model.losses.vectors import D, known, unit

SIZES = (4, 3, 5, 2)
"""Candidates of the batches; in a run the last one alone has fewer."""


def batch(number: int) -> tuple[Tensor, Items]:
    size = SIZES[number]
    items = torch.arange(size) + 10 * number
    return unit(size, D, seed=number), known(items, torch.randn(size))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_candidate_is_older_than_the_queue_is_long(length: int) -> None:
    queue = CandidateQueue(length)
    for number in range(len(SIZES)):
        vectors, items = queue.joined(*batch(number))
        ages = range(min(number, length), 0, -1)
        there = [batch(number)[0], *(batch(number - age)[0] for age in ages)]
        assert torch.equal(vectors, torch.cat(there))
        expected = [10 * number + i for i in range(SIZES[number])]
        for age in ages:
            expected += [10 * (number - age) + i for i in range(SIZES[number - age])]
        assert items.index.tolist() == expected
        assert len(items.offset) == len(items.category) == len(expected)
        queue.push(*batch(number))


def test_gradients_flow_into_the_present_batch_alone() -> None:
    queue = CandidateQueue(1)
    old, new = (batch(number)[0].requires_grad_() for number in (0, 0))
    items = batch(0)[1]
    queue.push(old, items)
    query = unit(2, D, seed=7).requires_grad_()
    candidates = queue.joined(new, items)
    own = new[:2], items.first(2)
    loss = cosine_contrastive(query, own[0], candidates[0], own[1], candidates[1], 2, -1, 1)
    loss.backward()
    assert old.grad is None
    assert new.grad is not None
    assert query.grad is not None
    # With the old vectors as constants, and not without them, the loss is that by hand.
    score = query @ torch.cat([new, old]).T
    other = items.index.repeat(2) != items.index[:2, None]
    costs = ((score + 1) * other).sum(dim=1) / other.sum(dim=1)
    assert loss.item() == pytest.approx(
        (1 - (query * new[:2]).sum(dim=1) + costs).mean().item(), abs=1e-12
    )


def test_its_state_makes_another_queue_the_same() -> None:
    queue, other = CandidateQueue(3), CandidateQueue(3)
    assert queue.state() == {}
    other.push(*batch(3))
    for number in range(len(SIZES)):
        queue.push(*batch(number))
        state = queue.state()
        assert state["sizes"].tolist() == list(SIZES[max(0, number - 2) : number + 1])
        copies = {name: tensor.clone() for name, tensor in state.items()}
        other.load_state(copies, torch.device("cpu"))
        assert all(torch.equal(state[name], kept) for name, kept in other.state().items())
        pairs = zip(queue.joined(*batch(0)), other.joined(*batch(0)), strict=True)
        (ours, theirs), (mine, yours) = pairs
        assert torch.equal(ours, theirs)
        assert all(map(torch.equal, mine.tensors(), yours.tensors()))
