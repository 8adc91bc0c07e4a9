"""A world in which half of the interactions repeat an earlier one: from log to blended lists."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked

SIZE = ("--users", "500", "--items", "2000", "--interactions", "40000", "--repeats", ".5")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a run trained on new pairs, its figures and its export."""
    folder = tmp_path_factory.mktemp("repeats")
    prepare = ("prepare", "synthetic", "--out", folder / "data", "--validation-share", ".1")
    done(forked(*prepare, *SIZE))
    train = ("--epochs", "3", "--batch-size", "512", "--examples.skip-repeats")
    done(forked("train", "--data", folder / "data", "--out", folder / "run", *train))
    return folder


def test_one_run_answers_new_pairs_and_repeats(world: Path) -> None:
    said = done(
        forked("evaluate", "--run", world / "run", "--blend-history", "--no-fitted-baselines")
    )
    assert "model + history, fitted on validation: weight " in said
    metrics = json.loads((world / "run" / "metrics.json").read_text())
    blend, history = metrics["blend"], metrics["baselines"]["own history"]
    assert blend["settings"]["weight"] > 0
    for figure in ("HR@50", "HR@100"):
        reached = blend["all"][figure]
        assert reached > max(metrics["all"][figure], history["all"][figure]) + 0.01
    assert blend["new_pairs"] == metrics["new_pairs"]

    export = ("export", "--run", world / "run", "--out", world / "export", "--blend-history")
    done(forked(*export))
    recommend = ("recommend", "--export", world / "export", "--blend-history", "--k", "50")
    done(forked(*recommend, "--out", world / "recs.parquet"))
    recs = pq.read_table(world / "recs.parquet")
    users = pq.read_table(world / "data" / "users.parquet")["user_id"].to_pylist()
    items = pq.read_table(world / "data" / "items.parquet")["item_id"].to_numpy()
    test = pq.read_table(world / "data" / "test.parquet")
    listed = set(zip(recs["user_id"].to_pylist(), recs["item_id"].to_pylist(), strict=True))
    asked = zip(test["user_row"].to_pylist(), items[test["item_index"].to_numpy()], strict=True)
    hits = sum((users[user], item) in listed for user, item in asked)
    wanted = sum(blend[name]["HR@50"] * blend[name]["queries"] for name in ("warm", "cold"))
    assert hits == pytest.approx(wanted, abs=1e-6)
