"""Training on the last days alone, begun from a run of those before: new pairs stay the same."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked

SIZE = ("--users", "200", "--items", "150", "--interactions", "6000", "--repeats", ".4")
FLAGS = ("--batch-size", "128", "--epochs", "1", "--preset", "modern")
YESTERDAY = ("--validation-from", "2020-03-21")
TODAY = ("--train-from", "2020-03-21", "--test-until", "2020-04-06")


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets, and the runs of the first and of the last days, begun from the first."""
    folder = tmp_path_factory.mktemp("days")
    whole = ("--test-until", "2020-04-06")
    for name, options in (("first", YESTERDAY), ("last", TODAY), ("whole", whole)):
        done(forked("prepare", "synthetic", "--out", folder / name, *SIZE, *options))
    done(forked("train", "--data", folder / "first", "--out", folder / "begun", *FLAGS))
    train = ("train", "--data", folder / "last", "--out", folder / "run", *FLAGS)
    done(forked(*train, "--warm-start", folder / "begun"))
    return folder


def test_new_pairs_and_cold_queries_are_those_of_the_whole_log(days: Path) -> None:
    whole, last = (days / name for name in ("whole", "last"))
    training = pq.read_table(whole / "examples", columns=["user", "item_index"]).to_pylist()
    had = {(row["user"] - 1, row["item_index"]) for row in training}
    users, items = ({pair[side] for pair in had} for side in (0, 1))
    asked = pq.read_table(whole / "test.parquet").to_pylist()
    pairs = [(row["user_row"], row["item_index"]) for row in asked]
    known = [pair for pair in pairs if pair[0] in users and pair[1] in items]
    new = [pair for pair in known if pair not in had]
    examples = pq.read_table(last / "examples", columns=["user", "item_index"]).to_pylist()
    late = {(row["user"] - 1, row["item_index"]) for row in examples}
    # Of the last days' log alone, more would be new.
    assert len([pair for pair in pairs if pair not in late]) > len(new) + 50

    said = done(forked("evaluate", "--run", days / "run", "--blend-history"))
    assert "fitted on the last tenth of training" in said
    metrics = read(days / "run" / "metrics.json")
    assert metrics["all"]["queries"] == len(pairs)
    assert metrics["new_pairs"]["queries"] == len(new)
    assert metrics["all"]["unanswerable"] == len(pairs) - len(known)


def test_a_run_of_the_whole_log_has_the_same_baselines(days: Path) -> None:
    """MostPop, own history, ItemCF and iALS know all days, whatever is trained on."""
    done(forked("train", "--data", days / "whole", "--out", days / "all", *FLAGS))
    done(forked("evaluate", "--run", days / "run"))
    done(forked("evaluate", "--run", days / "all"))
    found, wanted = (read(days / run / "metrics.json")["baselines"] for run in ("run", "all"))
    assert found == wanted
    steps = [read(days / run / "train.json")["steps"] for run in ("run", "all")]
    rows = [read(days / name / "schema.json")["examples"] for name in ("last", "whole")]
    assert steps == [-(-number // 128) for number in rows]
    assert steps[0] < steps[1] / 4
