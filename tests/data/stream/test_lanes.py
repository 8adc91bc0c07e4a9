"""Lanes against a pack of cards: dealt one by one, and cut by hand."""

import random
from itertools import chain, groupby

import pytest

from dat_rec.data.stream.lanes import Lanes, usual_lanes


def dealt(lanes: Lanes, positions: range) -> list[tuple[int, int]]:
    """Lane and row of some of the run's examples, as a global batch has them: lane after lane."""
    by_turn = {int(turn): lane for lane, turn in enumerate(lanes.turns)}
    return sorted((by_turn[p % lanes.number], p // lanes.number) for p in positions)


def test_ranks_have_together_what_the_lanes_are_dealt() -> None:
    draw = random.Random(0)
    for _ in range(100):
        number = draw.choice([1, 2, 3, 4, 5, 8, 16, 48, 64])
        world, size, total = draw.randint(1, 9), draw.randint(1, 300), draw.randint(1, 2_000)
        world = draw.choice([world, 100])
        ranks = [Lanes(number, size, total, rank, world) for rank in range(world)]
        assert sorted(chain.from_iterable(rank.counted for rank in ranks)) == [*range(number)]
        most = 0
        for step in range(-(-total // size)):
            parts = [rank.part(step) for rank in ranks]
            found = []
            for rank, part in zip(ranks, parts, strict=True):
                own = [(lane, row) for lane, i, j in part.rows for row in range(i, j)]
                assert len(own) == part.counts[rank.rank]
                assert part.counts == parts[0].counts
                assert {lane for lane, _ in own} <= set(rank.own)
                found += own
            assert found == dealt(ranks[0], range(step * size, min(total, (step + 1) * size)))
            most = max(most, *parts[0].counts)
        assert {rank.most_rows for rank in ranks} == {most}


@pytest.mark.parametrize("number", [1, 2, 8, 64])
def test_ranks_have_equal_parts_whatever_the_batch(number: int) -> None:
    for world in (1, 2, 4, 8, 64, 3, 6):
        for size in (64, 65, 96, 100, 1_000):
            lanes = Lanes(number, size, 100 * size, 0, world)
            apart = [
                max(counts) - min(counts)
                for counts in (lanes.part(step).counts for step in range(90))
            ]
            # A rank with whole lanes has a row more or less; one that cuts lanes, one at each end.
            assert max(apart) <= (1 if number % world == 0 else 3)


def test_a_rank_has_its_lanes_and_shares_those_at_its_borders() -> None:
    def own(number: int, world: int) -> list[list[int]]:
        return [[*Lanes(number, 64, 640, rank, world).own] for rank in range(world)]

    assert own(4, 2) == [[0, 1], [2, 3]]
    assert own(4, 3) == [[0, 1], [1, 2], [2, 3]]
    assert own(2, 4) == [[0], [0], [1], [1]]
    assert own(1, 2) == [[0], [0]]


def test_lanes_are_powers_of_two_with_eight_row_groups_each() -> None:
    found = {lanes: [*groups] for lanes, groups in groupby(range(2_000), usual_lanes)}
    begins = {lanes: groups[0] for lanes, groups in found.items()}
    assert begins == {1: 0, 2: 16, 4: 32, 8: 64, 16: 128, 32: 256, 64: 512}
