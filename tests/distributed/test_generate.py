"""Heads for unknown ids are dense: any plan and world size trains them as one process does."""

import pytest

from dat_rec.data.dataset import Dataset
from tests.distributed.exactness import Case, run_cases, run_references
from tests.distributed.ranks import run_ranks
from tests.distributed.test_exactness import EXACT, difference, pinned

SHARDING = ("data_parallel", "row_wise", "column_wise")
PARAMETERS = 1e-6
"""Adam's step is as long for a tiny gradient: a hidden unit of a head sees few examples."""
CASES = [Case(preset, generate=True) for preset in ("modern", "two-tower")]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_train_the_heads_as_one_process_does(divisible: Dataset, world: int) -> None:
    references = run_ranks(run_references, 1, divisible, CASES)[0]
    for reference in references:
        assert any("item_generator" in name for name in reference.parameters)
    places = [(case, kind) for case in CASES for kind in SHARDING]
    ranks = run_ranks(run_cases, world, divisible, [pinned(*place) for place in places])
    for (case, kind), *outcomes in zip(places, *ranks, strict=True):
        reference = references[CASES.index(case)]
        for outcome in outcomes:
            assert outcome.losses == outcomes[0].losses
            found = difference(outcome, reference)
            assert found.loss <= EXACT, (case.preset, kind)
            assert found.parameters <= PARAMETERS, (case.preset, kind)
