"""A run with dense features evaluated, exported, asked: vectors against plain products by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset
from dat_rec.data.rows import copy_rows
from dat_rec.data.schema import Schema, Side
from dat_rec.errors import UserError
from dat_rec.files import sha256, write_json
from dat_rec.retrieval import encode, export_parts, export_rows, golden
from dat_rec.retrieval.distinct import kinds, row_hashes
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.feature_rows import FeatureRows
from dat_rec.retrieval.ranks import all_ranks
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.trained import load_model
from tests.checkpoint.saved import saved_tensors
from tests.dense_log import DENSE, SHELF, of_rows, prepare_dense, scaled_rows
from tests.distributed.ranks import run_ranks
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import write_run

SERVING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dat_rec", "torchrec", "fbgemm_gpu"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import json, numpy as np, pyarrow.parquet as pq, torch

folder = sys.argv[1]
manifest = json.load(open(f"{folder}/export.json"))
tower = torch.export.load(f"{folder}/query_tower.pt2").module()


def encode(users):
    values, offsets, dense = {}, {}, {}
    for one in manifest["features"]:
        name = one["name"]
        lists = [user[name] if one["multi_valued"] else [user[name]] for user in users]
        values[name] = torch.tensor([v for part in lists for v in part], dtype=torch.int64)
        offsets[name] = torch.tensor([0, *map(len, lists)]).cumsum(0)
    for one in manifest["dense"]:
        rows = [user[one["name"]] for user in users]
        rows = [float("nan") if row is None else row for row in rows]
        rows = [row if isinstance(row, list) else [row] * one["width"] for row in rows]
        dtype = {"number": torch.float64, "vector": torch.float32}[one["kind"]]
        dense[one["name"]] = torch.tensor(rows, dtype=dtype).reshape(len(rows), one["width"])
    return tower(values, offsets, dense).numpy()


users = pq.read_table(f"{folder}/users").to_pylist()
alone = np.concatenate([encode([user]) for user in users])
np.savez(f"{folder}/answers.npz", together=encode(users), alone=alone, none=encode([]))
"""


def made_run(folder: Path, dataset: Dataset, precision: str = "float32") -> Path:
    """A run of random weights that keeps its rows and its schema, as a training does."""
    assert isinstance(dataset.folder, Path)
    run = write_run(folder, dataset.folder, precision=precision)  # type: ignore[arg-type]
    copy_rows(dataset.folder, run / "rows")
    dataset.schema.save(run)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare_dense(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def run(made: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("run") / "run", made)


def vectors_by_hand(run: Path, dataset: Dataset, side: Side) -> NDArray[np.float64]:
    """(rows, 8): embeddings, (x − mean) / scale by the weights, augmented vectors; the tower."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    saved = saved_tensors(checkpoint)
    file, own = ("users", "user") if side == "query" else ("items", "item")
    table = pq.read_table(dataset.folder / f"{file}.parquet").to_pylist()
    inputs = []
    for feature in dataset.schema.side(side):
        weight = saved[f"tables/dat.embeddings.{feature.table}/weight"]
        rows = [row[feature.name] for row in table]
        bags = [
            weight[one].mean(dim=0) if feature.multi_valued and one else torch.zeros(8)
            for one in rows
        ]
        inputs.append(torch.stack(bags) if feature.multi_valued else weight[rows])
    for number, name in enumerate(one.name for one in dataset.schema.dense if one.side == side):
        layer = f"towers/dat.{side}_dense.projections.{number}.layer"
        x = scaled_rows(dataset, name)
        products = x @ saved[f"{layer}.weight"].double().numpy().T
        products += saved[f"{layer}.bias"].double().numpy()
        inputs.append(torch.from_numpy(np.nan_to_num(products)).float())
    rows = [row[own] for row in table]
    inputs.append(saved[f"tables/dat.augmented.augmented_{own}/weight"][rows])
    model = load_model(run).model
    tower = model.query_tower if side == "query" else model.item_tower
    with torch.no_grad():
        found: NDArray[np.float64] = tower(torch.cat(inputs, dim=1)).double().numpy()
    return found


def test_vectors_are_those_of_the_definition(run: Path, made: Dataset) -> None:
    trained = load_model(run)
    users = encode_users(trained.model, made, np.arange(made.schema.users))[:, :8]
    items = encode_items(trained.model, made)[:, :8]
    np.testing.assert_allclose(users, vectors_by_hand(run, made, "query"), atol=2e-5)
    np.testing.assert_allclose(items, vectors_by_hand(run, made, "item"), atol=2e-5)
    # Items that nobody has had differ by these values alone, their shelf apart.
    untrained = items[made.schema.trained_items :]
    assert len({row.tobytes() for row in untrained}) == len(untrained)


def test_rows_are_alike_only_if_their_dense_values_are(made: Dataset) -> None:
    columns = FeatureRows(made, "items").take(np.arange(made.schema.items))
    for name in DENSE[:2]:
        one = {name: columns[name]}
        values = of_rows(made, name)
        found = kinds(row_hashes(one)).kind
        expected = [[np.array_equal(a, b, equal_nan=True) for a in values] for b in values]
        assert np.array_equal(found[:, None] == found[None, :], expected)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_the_exported_tower_takes_values_as_they_are_on_torch_alone(
    precision: str, made: Dataset, tmp_path: Path
) -> None:
    run, out = made_run(tmp_path / "run", made, precision), tmp_path / "export"
    manifest = export(run, out)
    dense = [(one.name, one.mean, one.scale) for one in made.schema.dense if one.side == "query"]
    assert [(d["name"], d["mean"], d["scale"]) for d in manifest["dense"]] == dense
    ended = subprocess.run(
        [sys.executable, "-c", SERVING, str(out)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    answers = np.load(out / "answers.npz")
    users = np.arange(made.schema.users)
    expected = encode_users(load_model(run).model, made, users)
    close = 2e-2 if precision == "bfloat16" else 1e-5
    np.testing.assert_allclose(answers["together"], expected, rtol=0, atol=close)
    np.testing.assert_allclose(answers["alone"], expected, rtol=0, atol=close)
    assert answers["none"].shape == (0, expected.shape[1])


def test_recommendations_are_the_best_by_hand(run: Path, made: Dataset, tmp_path: Path) -> None:
    export(run, tmp_path / "export")
    recommend(tmp_path / "export", 5, tmp_path / "recs.parquet")
    found = pq.read_table(tmp_path / "recs.parquet").to_pylist()
    trained = load_model(run)
    users = np.arange(made.schema.users)
    scores = encode_users(trained.model, made, users) @ encode_items(trained.model, made).T
    ids = pq.read_table(made.folder / "items.parquet")["item_id"].to_pylist()
    best = np.sort(scores, axis=1)[:, ::-1][:, :5]
    for number, row in enumerate(found):
        user, rank = divmod(number, 5)
        assert row["score"] == pytest.approx(best[user, rank], abs=1e-5)
        assert row["score"] == pytest.approx(scores[user, ids.index(row["item_id"])], abs=1e-5)


def test_an_export_is_refused_by_who_knows_no_dense_features(
    run: Path, made: Dataset, tmp_path: Path
) -> None:
    export(run, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "export.json").read_text())["version"] == 3
    opened = Export.open(tmp_path / "export")
    assert list(opened.user_columns)[-2:] == ["face", "since"]
    value = json.loads((tmp_path / "export" / "export.json").read_text())
    write_json(tmp_path / "export" / "export.json", value | {"version": 5})
    with pytest.raises(UserError, match="version 5, this program reads 2, 3 and 4"):
        Export.open(tmp_path / "export")


def small_blocks(run: Path, out: Path) -> dict[str, str]:
    """Evaluate and export in small blocks; what was written, by its path."""
    encode.ROWS, encode.TOWER_ROWS = 7, 3
    export_parts.PART_ROWS = export_rows.PART_ROWS = golden.PART_ROWS = 8
    with all_ranks():
        evaluate(run)
        export(run, out, overwrite=True)
    written = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    written["metrics.json"] = run / "metrics.json"
    return {name: sha256(path) for name, path in written.items()}


def test_two_ranks_write_what_one_process_writes(made: Dataset, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", made)
    (alone,) = run_ranks(small_blocks, 1, run, tmp_path / "out")
    together = run_ranks(small_blocks, 2, run, tmp_path / "out")
    assert together[0] == alone
    assert {"metrics.json", "users/part-00005.parquet"} <= alone.keys()


@pytest.mark.parametrize("seed", [0, 1])
def test_another_dataset_is_scored_with_the_runs_mean_and_scale(
    seed: int, run: Path, made: Dataset, tmp_path: Path
) -> None:
    """With the same rows (seed 0), whose values are ten times as large; or with other rows too.

    Its items have then ten times the vectors that the run's projection was trained on.
    """
    options = prepare_dense(tmp_path / "plain", seed).folder.parent  # type: ignore[union-attr]
    table = pq.read_table(options / "items.parquet")
    vector = pa.list_(pa.float32())
    large = [None if v is None else [10 * x for x in v] for v in table["text"].to_pylist()]
    column = table.column_names.index("text")
    pq.write_table(table.set_column(column, "text", pa.array(large, vector)), options / "i.parquet")
    log = {name: options / f"{name}.parquet" for name in ("users",)}
    other = prepare_dense(tmp_path / "other", seed, items=options / "i.parquet", **log)
    mine = next(one for one in made.schema.dense if one.name == "text")
    theirs = next(one for one in other.schema.dense if one.name == "text")
    assert theirs.scale > 5 * mine.scale
    trained = load_model(run, other.folder, match=True)
    assert trained.dataset.schema.dense == made.schema.dense
    items = encode_items(trained.model, trained.dataset)[:, :8]
    # By hand: the same values in a dataset that has the run's mean and scale.
    values = FeatureRows(trained.dataset, "items").take(np.arange(other.schema.items))
    model = load_model(run).model
    projection = next(iter(model.item_dense))  # type: ignore[arg-type]
    text = torch.from_numpy(values["text"].values)
    weight, bias = projection.layer.weight, projection.layer.bias
    by_hand = torch.nan_to_num(text / mine.scale @ weight.T + bias)
    torch.testing.assert_close(projection(text), by_hand, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        tables = model.embeddings.tables
        shelf = tables[SHELF].local[values[SHELF].values]
        item = tables["item"].local[values["item"].values]
        price = list(model.item_dense)[1]  # type: ignore[arg-type]
        own = torch.from_numpy(values["price"].values)
        augmented = model.augmented.tables["augmented_item"].local[values["item"].values]  # type: ignore[union-attr]
        inputs = [item, shelf, by_hand, price(own), augmented]
        expected = model.item_tower(torch.cat(inputs, dim=1)).numpy()
    np.testing.assert_allclose(items, expected, atol=1e-4)


def test_a_dataset_without_a_dense_feature_of_the_run_is_refused(run: Path, tmp_path: Path) -> None:
    without = prepare_dense(
        tmp_path, item_features=("price",), dense=("price", "face", "since")
    ).folder
    words = "has no dense feature 'text' (vector of width 5 for the item tower)"
    with pytest.raises(UserError, match=re.escape(words)):
        load_model(run, without, match=True)
    with pytest.raises(UserError, match=re.escape(words)):
        load_model(run, without)


def test_more_dense_features_than_the_runs_are_not_read(tmp_path: Path) -> None:
    less = {"item_features": ("price",), "dense": ("price", "face", "since")}
    small = prepare_dense(tmp_path / "small", **less)
    run = made_run(tmp_path / "run", small)
    large = prepare_dense(tmp_path / "large")
    expected, found = (load_model(run, one.folder) for one in (small, large))
    assert found.dataset.schema.dense == small.schema.dense == Schema.load(run).dense
    one, other = (encode_items(each.model, each.dataset) for each in (expected, found))
    np.testing.assert_array_equal(one, other)
