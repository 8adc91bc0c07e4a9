import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.retrieval.baselines import baselines
from dat_rec.retrieval.evaluate import evaluate, table
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.trained import load_model
from tests.retrieval import brute_force
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import random_protocol, write_dataset


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
    assert brute_force.approximately(found.pop("baselines")) == brute_force.approximately(
        baselines(protocol)
    )
    assert brute_force.approximately(found) == brute_force.approximately(expected)


def test_table_prints_every_figure_in_its_column(run: Path) -> None:
    metrics = evaluate(run)
    metrics["cold"]["new_users"] = {"HR@50": None, "HR@100": None, "MRR": None, "queries": 0}
    metrics["all"]["queries"] = 1_234_567
    lines = table(metrics).splitlines()
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[0].split() == ["queries", "HR@50", "HR@100", "MRR"]
    figures = metrics["all"]
    assert lines[1].split()[-4:] == [
        "1,234,567",
        f"{figures['HR@50']:.4f}",
        f"{figures['HR@100']:.4f}",
        f"{figures['MRR']:.4f}",
    ]
    (empty,) = (line for line in lines if "unseen users" in line and "model" in line)
    assert empty.split()[-4:] == ["0", "-", "-", "-"]
    assert any(line.startswith("own history: new pairs") for line in lines)
    assert lines[-1].startswith(f"{metrics['all']['unanswerable']:,} test interactions")


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
