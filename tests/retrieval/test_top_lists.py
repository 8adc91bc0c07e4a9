import numpy as np
import pytest

from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.top_lists import TopLists, best


def protocol() -> Protocol:
    """Two users, four trained items and one that is not; user 0 has had item 0."""
    return Protocol(
        user_row=np.array([0, 1]),
        item_index=np.array([1, 2]),
        user_trained=np.ones(2, bool),
        train_count=np.array([8, 4, 2, 1, 0]),
        category=np.zeros(5, np.int64),
        category_names=("all",),
        seen_offsets=np.array([0, 1, 1]),
        seen_item=np.array([0]),
        seen_count=np.array([8]),
    )


def filled(lists: TopLists) -> dict[str, float]:
    found = lists.empty(2)
    scores = np.array([5, 1, 3, 3], np.float32)
    items = np.arange(4, dtype=np.int32)
    found.put(0, *best(scores, np.array([0], np.int32), items, found.longest))
    found.put(1, *best(scores, np.zeros(0, np.int32), items, found.longest))
    lists.add(np.array([0, 1]), found)
    return lists.figures()


def test_by_hand() -> None:
    # User 0 is shown 2, then 3, then 1; user 1 is shown 0, 2, 3, 1.
    assert filled(TopLists(protocol(), (1, 2, 9))) == {
        "Coverage@1": 2 / 4,
        "Coverage@2": 3 / 4,
        "Coverage@9": 1.0,
        "ARP@1": (2 + 8) / 2,
        "ARP@2": ((2 + 1) / 2 + (8 + 2) / 2) / 2,
        "ARP@9": ((2 + 1 + 4) / 3 + (8 + 2 + 1 + 4) / 4) / 2,
        "users": 2,
    }


@pytest.mark.parametrize("k", [1, 3, 10])
def test_best_is_what_sorting_gives(k: int) -> None:
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 4, 50).astype(np.float32)
    own = rng.permutation(50)[:20].astype(np.int32)
    items = np.arange(50, dtype=np.int32) * 3
    found, of_each = best(scores, own, items, k)
    left = [place for place in range(50) if place not in own]
    wanted = sorted(left, key=lambda place: -scores[place])[:k]
    assert found.tolist() == [3 * place for place in wanted]
    assert of_each.tolist() == scores[wanted].tolist()


def test_a_user_who_has_had_everything_has_no_list() -> None:
    lists = TopLists(protocol(), (2,))
    lists.add(np.array([0, 1]), lists.empty(2))
    assert lists.figures() == {"Coverage@2": 0.0, "ARP@2": None, "users": 0}
