import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import Schema
from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.evaluation_text import text
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.trained import load_model
from tests.retrieval import brute_force
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import random_protocol, write_dataset, write_run


def test_metrics_json_holds_the_brute_force_figures(run: Path) -> None:
    evaluate(run)
    found = json.loads((run / "metrics.json").read_text("utf-8"))
    trained = load_model(run)
    model, dataset = trained.model, trained.dataset
    protocol = random_protocol(0)
    query = encode_users(model, dataset, np.arange(dataset.schema.users)).astype(np.float64)
    scores = query @ encode_items(model, dataset).astype(np.float64).T
    # Scores closer than rounding are equal: untrained items of one category are the same.
    scores = scores.round(6)
    expected = brute_force.metrics(protocol, lambda user, item: scores[user, item])
    assert found.pop("dataset") == "by hand"
    assert found.pop("checkpoint") == 12
    assert found.pop("asked") == found.pop("tests") == len(protocol.user_row)
    assert list(found.pop("baselines")) == ["MostPop", "own history", "ItemCF", "iALS"]
    assert found.pop("baselines_left_out") == {}
    assert brute_force.approximately(found) == brute_force.approximately(expected)


def test_of_many_queries_whole_users_are_asked(run: Path) -> None:
    metrics = evaluate(run, queries=20, fitted_baselines=False)
    dataset = load_model(run).dataset
    asked, everyone = Protocol.read(dataset, most=20), Protocol.read(dataset)
    assert 0 < metrics["asked"] == len(asked.user_row) <= 20 < metrics["tests"]
    for user in asked.users:
        assert (asked.user_row == user).sum() == (everyone.user_row == user).sum()
    assert metrics["all"]["queries"] == asked.answerable.sum()
    assert f"{metrics['asked']} of {metrics['tests']} test interactions were asked" in text(metrics)
    with pytest.raises(UserError, match="--queries -1"):
        evaluate(run, queries=-1)


def test_text_prints_every_figure_in_its_column(run: Path) -> None:
    metrics = evaluate(run, k=(5,))
    metrics["cold"]["new_users"] = {"HR@50": None, "HR@100": None, "MRR": None, "queries": 0}
    metrics["all"]["queries"] = 1_234_567
    tables = [part.splitlines() for part in text(metrics).split("\n\n")]
    for lines in tables[:3]:
        assert len({len(line) for line in lines}) == 1
    assert [len(lines) for lines in tables[:3]] == [1 + 8 * 5, 1 + 5, 1 + 5]
    lines = tables[0]
    assert lines[0].split() == ["queries", "HR@50", "HR@100", "MRR"]
    figures = [f"{metrics['all'][name]:.4f}" for name in ("HR@50", "HR@100", "MRR")]
    assert lines[1].split() == ["all", "pairs", "model", "1,234,567", *figures]
    (empty,) = (line for line in lines if line.startswith("cold, unseen users"))
    assert empty.split()[-4:] == ["0", "-", "-", "-"]
    of_users, of_lists = metrics["baselines"]["iALS"]["per_user"], metrics["lists"]
    assert tables[1][0].split() == ["users", "Recall@5", "NDCG@5"]
    assert tables[1][5].split() == [
        "iALS",
        f"{of_users['Recall@5']:.4f}",
        f"{of_users['NDCG@5']:.4f}",
    ]
    assert tables[2][1].split()[1:] == [
        "model",
        str(of_lists["users"]),
        f"{of_lists['Coverage@5']:.4f}",
        f"{of_lists['ARP@5']:.1f}",
    ]
    assert f"{metrics['all']['unanswerable']:,} test interactions of unseen" in tables[3][1]


def test_a_line_says_where_a_baseline_is_ahead(run: Path) -> None:
    metrics = evaluate(run)
    for name, found in [("model", metrics), *metrics["baselines"].items()]:
        high = 0.9 if name == "model" else 0.1
        for block in (found["all"], found["new_pairs"]):
            block |= {"HR@50": high, "HR@100": high, "MRR": high}
    metrics["baselines"]["ItemCF"]["new_pairs"] |= {"HR@50": 0.95, "HR@100": 0.9}
    metrics["baselines"]["iALS"]["new_pairs"]["HR@50"] = 0.93
    lines = [line for line in text(metrics).splitlines() if "new pairs" in line and "ahead" in line]
    assert "ItemCF is ahead on new pairs: HR@50 0.9500 against 0.9000." in lines
    assert not [line for line in lines if "HR@100" in line]
    assert "ahead on all pairs" not in text(metrics)


def test_baselines_that_need_fitting_can_be_left_out(run: Path) -> None:
    metrics = evaluate(run, fitted_baselines=False)
    assert list(metrics["baselines"]) == ["MostPop", "own history"]
    assert "iALS is left out: not asked for." in text(metrics).splitlines()


@pytest.mark.parametrize("k", [(), (0, 10), (-1,)])
def test_lengths_of_lists_below_one_are_refused(run: Path, k: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"--k is .*: give lengths of lists, 1 or more each"):
        evaluate(run, k=k)


def test_protocol_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = Protocol.read(Dataset.open(write_dataset(tmp_path / "data", seed=3)))
    written = random_protocol(3)
    names = np.array(written.category_names)[written.category]
    assert np.array_equal(np.array(read.category_names)[read.category], names)
    for field in ("user_row", "item_index", "user_trained", "train_count"):
        assert np.array_equal(getattr(read, field), getattr(written, field)), field
    asked = set(read.users.tolist())
    assert len(asked) < len(read.user_trained)
    for user in range(len(read.user_trained)):
        ours, theirs = read.seen_slice(user), written.seen_slice(user)
        for field in ("seen_item", "seen_count"):
            wanted = getattr(written, field)[theirs] if user in asked else []
            assert getattr(read, field)[ours].tolist() == list(wanted), field


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("test", "user_row", 30, "names row 30, outside 0 … 29"),
        ("test", "item_index", -1, "names row -1"),
        ("test", "item_index", None, "integers without nulls"),
        ("seen", "item_index", 45, "names row 45, outside 0 … 44"),
        ("items", "train_count", 0, "train_count must be above 0 in the first 45 rows"),
    ],
)
def test_tables_that_contradict_the_schema_are_refused(
    tmp_path: Path, table: str, column: str, value: int | None, message: str
) -> None:
    folder = write_dataset(tmp_path / "data")
    path = folder / f"{table}.parquet"
    content = pq.read_table(path)
    values = [value, *content.column(column).to_pylist()[1:]]
    place = content.column_names.index(column)
    pq.write_table(content.set_column(place, column, pa.array(values, pa.int64())), path)
    with pytest.raises(UserError, match=message) as error:
        Protocol.read(Dataset.open(folder))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dataset_that_holds_nothing_out_cannot_be_evaluated(tmp_path: Path) -> None:
    """It may be trained on; any engine may write one."""
    folder = write_dataset(tmp_path / "data")
    path = folder / "test.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    replace(Dataset.open(folder).schema, tests=0).save(folder)
    with pytest.raises(UserError, match=r"test.parquet: holds no interaction: hold some out"):
        Protocol.read(Dataset.open(folder))


def test_curves_are_of_the_dataset_of_the_training(tmp_path: Path) -> None:
    """One with the same rows may have another test: a log that ends earlier has."""
    data = write_dataset(tmp_path / "data")
    run = write_run(tmp_path / "run", data)
    write_json(run / "train.json", {"steps": 12})
    schema = Schema.load(data)
    replace(schema, test_until=10**9).save(run)
    evaluate(run, fitted_baselines=False)
    assert not (run / "tensorboard").exists()
    schema.save(run)
    evaluate(run, fitted_baselines=False)
    assert list((run / "tensorboard").iterdir())
