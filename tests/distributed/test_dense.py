"""Dense features on several ranks, against the same steps on one unsharded process."""

from dataclasses import replace

import pytest

from dat_rec.data.dataset import Dataset
from tests.dense_log import prepare_dense
from tests.distributed.exactness import Case, Outcome, run_cases, run_references
from tests.distributed.ranks import run_ranks
from tests.distributed.test_exactness import EXACT, difference

CASES = [Case("modern"), Case("paper")]
PINS = ("*=row_wise",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare_dense(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def references(made: Dataset) -> list[Outcome]:
    (found,) = run_ranks(run_references, 1, made, CASES)
    return list(found)


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_train_together_what_one_process_trains(
    world: int, made: Dataset, references: list[Outcome]
) -> None:
    cases = [replace(case, pins=PINS) for case in CASES]
    outcomes = run_ranks(run_cases, world, made, cases)
    for of_rank in outcomes:
        for outcome, reference in zip(of_rank, references, strict=True):
            weight = reference.parameters["dat.item_dense.projections.0.layer.weight"]
            assert weight.shape[1] == 5
            found = difference(outcome, reference)
            assert found.loss <= EXACT, found
            assert found.parameters <= EXACT, found
