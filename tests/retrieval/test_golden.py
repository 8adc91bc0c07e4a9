"""An export that does not answer as its model is refused, and nothing is left of it."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dat_rec.data.schema import Feature
from dat_rec.errors import UserError
from dat_rec.model.dat import DAT
from dat_rec.retrieval import export as module
from dat_rec.retrieval import golden
from dat_rec.retrieval.divided import DividedRows
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.query_encoder import QueryEncoder
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.table_forms import Form
from dat_rec.retrieval.trained import load_model
from tests.retrieval.whole import encode_users
from tests.retrieval.world import USERS, write_dataset, write_run


def in_another_precision(encoder: QueryEncoder) -> None:
    """As a tower in float64 behind tables in float32: it is written, and cannot run."""
    encoder.tower = copy.deepcopy(encoder.tower).double()


def of_other_weights(encoder: QueryEncoder) -> None:
    encoder.tower = copy.deepcopy(encoder.tower)
    with torch.no_grad():
        next(encoder.tower.parameters()).mul_(1.01)


def of_another_table(encoder: QueryEncoder) -> None:
    rows = encoder.contents["tables.0.weight"]
    local = rows.local.clone()
    local[1] += 0.1
    encoder.contents["tables.0.weight"] = DividedRows(local, rows.bounds)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (in_another_precision, "fails with RuntimeError: .*dtype"),
        (of_other_weights, "vector of user_row [0-9]+ is off by"),
        (of_another_table, "vector of user_row [0-9]+ is off by"),
    ],
)
def test_a_query_tower_that_is_not_the_models_is_refused(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[QueryEncoder], None],
    message: str,
) -> None:
    def encoder(model: DAT, features: Sequence[Feature], form: Form) -> QueryEncoder:
        other = QueryEncoder(model, features, form)
        harm(other)
        return other

    monkeypatch.setattr(module, "QueryEncoder", encoder)
    with pytest.raises(UserError, match=message) as error:
        export(run, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_program_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "write_tower", lambda *args: args[3].write_bytes(b"PK"))
    with pytest.raises(UserError, match="does not answer as the model does"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["index.faiss", "item_vectors", "users"])
def test_files_in_another_order_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def check(folder: Path, *args: object) -> None:
        path = folder / name
        if path.is_dir():
            part = path / "part-00000.parquet"
            rows = pq.read_table(part)
            order = pa.array(np.roll(np.arange(len(rows)), 1))
            names = [one for one in rows.column_names if one != "item_index"]
            for column in names:
                place = rows.column_names.index(column)
                rows = rows.set_column(place, column, rows[column].take(order))
            pq.write_table(rows, part)
        else:
            index = faiss.read_index(str(path))
            other = faiss.IndexFlatIP(index.d)
            other.add(index.reconstruct_n(0, index.ntotal)[::-1].copy())
            faiss.write_index(other, str(path))
        golden.check_answers(folder, *args)

    monkeypatch.setattr(module, "check_answers", check)
    with pytest.raises(UserError, match="does not answer as the model does"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_first_the_last_and_those_without_a_list_are_asked() -> None:
    asked = golden.asked_users(5000, [3210])
    assert {0, 3210, 4999} <= set(asked.tolist())
    assert golden.ASKED * 0.9 < len(asked) <= golden.ASKED + 3
    assert (np.diff(asked) > 0).all()
    assert golden.asked_users(1, []).tolist() == [0]


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_every_precision_exports_what_answers_as_the_model(tmp_path: Path, precision: str) -> None:
    data = write_dataset(tmp_path / "data")
    run = write_run(tmp_path / "run", data, precision=precision)
    export(run, tmp_path / "export")
    opened, trained = Export.open(tmp_path / "export"), load_model(run)
    found = opened.tower.encode(trained.dataset.user_columns())
    assert found.dtype == np.float32
    expected = encode_users(trained.model, trained.dataset, np.arange(USERS))
    atol = golden.BFLOAT16_ROUNDING if precision == "bfloat16" else 1e-6
    np.testing.assert_allclose(found, expected, atol=atol)


def test_ids_that_trained_as_unknown_are_exported_as_unknown(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    users = pq.read_table(data / "users.parquet")
    history = users.column("history").to_pylist()
    history[4] = [3, 999, 7]
    age = [99, *users.column("age").to_pylist()[1:]]
    for name, values in (("history", history), ("age", age)):
        place = users.column_names.index(name)
        users = users.set_column(place, name, pa.array(values, users.column(name).type))
    pq.write_table(users, data / "users.parquet")
    run = write_run(tmp_path / "run", data, bad_ids="unknown")
    export(run, tmp_path / "export")
    recommend(tmp_path / "export", 3, tmp_path / "recs.parquet")
    written = pq.read_table(tmp_path / "export" / "users")
    assert written.column("history")[4].as_py() == [3, 0, 7]
    assert written.column("age")[0].as_py() == 0
    assert written.column("age")[1:].to_pylist() == age[1:]
