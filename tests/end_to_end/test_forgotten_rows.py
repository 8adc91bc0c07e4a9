"""A warm start on a dataset that has forgotten ids: a row that another id took begins afresh."""

from pathlib import Path

import pytest

from dat_rec.config import TrainConfig
from tests.checkpoint.saved import saved_tensors
from tests.data.prepare.test_after import Chain
from tests.distributed.ranks import run_ranks
from tests.end_to_end.cli import done
from tests.end_to_end.days import meanings
from tests.end_to_end.test_warm_start import (
    MODEL,
    World,
    check_tables,
    first_states,
    fresh,
    last,
    train,
)

CASES: dict[str, tuple[str, ...]] = {"whole": (), "rows": ("*=row_wise",)}


@pytest.fixture(scope="module")
def forgetting(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two days of which the second forgets, and a run on the first."""
    folder = tmp_path_factory.mktemp("forgetting")
    chain = Chain(folder, "sequence", seed=4)
    chain.whole_tables = True
    chain.make("before", 0, 2, split="none")
    chain.make("after", 3, 3, after=folder / "before", split="none", capacity=25)
    done(train(folder / "before", folder / "run"))
    return World(folder / "before", folder / "after", {"rowwise_adagrad": folder / "run"})


def test_rows_change_hands(forgetting: World) -> None:
    """Otherwise what follows would show nothing."""
    for table in ("user", "item"):
        before, now = (meanings(data, table) for data in (forgetting.yesterday, forgetting.today))
        assert before.keys() - now.keys()
        assert now.keys() - before.keys()
        # A new id has a row that was another's.
        assert {now[one] for one in now.keys() - before.keys()} & set(before.values())


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_nobody_reads_what_was_anothers(forgetting: World, tmp_path: Path, ranks: int) -> None:
    """Weights and optimizer state of all tables, those of augmented vectors and values too."""
    run = forgetting.runs["rowwise_adagrad"]
    config = TrainConfig(data=forgetting.today, out=tmp_path, seed=5, model=MODEL)
    run_ranks(first_states, ranks, config, run, CASES)
    old, new_rows = saved_tensors(last(run)), fresh(forgetting.today, config)
    assert any("augmented_user" in table for table in new_rows)
    for case in CASES:
        check_tables(forgetting, old, saved_tensors(last(tmp_path / case)), new_rows)
