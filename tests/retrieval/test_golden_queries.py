"""Questions with their answers in an export: raw values, rows, vectors and items say the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec import Recommender
from dat_rec.errors import UserError
from dat_rec.files import sha256, write_json
from dat_rec.retrieval.export import export
from dat_rec.retrieval.golden_queries import columns_of, golden_problem
from tests.retrieval.raw_log import USERS, write_raw_log
from tests.retrieval.test_fresh import assert_same


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    export(write_raw_log(folder, text_ids=True).run, folder / "export")
    return folder / "export"


def test_raw_values_make_the_rows_the_vectors_and_the_items(made: Path) -> None:
    asked, table = Recommender.open(made), pq.read_table(made / "golden.parquet")
    assert 30 < len(table) <= USERS
    raw = pa.Table.from_struct_array(table["raw"].combine_chunks())
    assert {"user_id", "history", "age", "face", "since", "codes"} < set(raw.column_names)
    found = asked._fresh.query_columns(raw)
    for name, column in columns_of(table["rows"].combine_chunks()).items():
        assert_same(found[name], column)
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(asked.fresh_vectors(raw), vectors, rtol=0, atol=1e-6)
    # Its own brute force: every item of every part.
    items = pq.read_table(made / "item_vectors")
    scores = vectors @ np.array(items["vector"].to_pylist(), np.float32).T
    best = np.sort(scores, axis=1)[:, : -20 - 1 : -1]
    np.testing.assert_allclose(np.array(table["scores"].to_pylist()), best, rtol=0, atol=1e-5)
    place = {item: number for number, item in enumerate(items["item_id"].to_pylist())}
    given = [[place[item] for item in row] for row in table["item_ids"].to_pylist()]
    picked = np.take_along_axis(scores, np.array(given), axis=1)
    np.testing.assert_allclose(picked, best, rtol=0, atol=1e-5)


def test_another_runtimes_answers_are_told_from_the_exports(made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    tower = Recommender.open(made).export.tower
    assert golden_problem(copy, tower, 1e-6) == ""

    class Other:
        def encode(self, columns: object) -> np.ndarray:  # type: ignore[type-arg]
            found = tower.encode(columns).copy()  # type: ignore[arg-type]
            found[4, 2] += 1e-3
            return found

    assert golden_problem(copy, Other(), 1e-6) == "golden.parquet: a vector is off by 0.001"
    table = pq.read_table(copy / "golden.parquet")
    ids = table["item_ids"].to_pylist()
    ids[0][0], ids[0][1] = ids[0][1], ids[0][0]
    other = pa.array(ids, table["item_ids"].type)
    pq.write_table(table.set_column(3, "item_ids", other), copy / "golden.parquet")
    assert golden_problem(copy, tower, 1e-6) == "golden.parquet: other items are the best"


def test_vectors_and_towers_bear_one_id_and_two_in_a_folder_are_refused(
    made: Path, tmp_path: Path
) -> None:
    asked = Recommender.open(made)
    manifest = json.loads((made / "export.json").read_text())
    part = "item_vectors/part-00000.parquet"
    ids = {
        manifest["model_id"],
        asked.export.tower.model_id,
        asked.export.item_tower and asked.export.item_tower.model_id,
        pq.read_schema(made / part).metadata[b"model_id"].decode(),
        asked.vectors().schema.metadata[b"model_id"].decode(),
    }
    assert len(ids) == 1
    assert all(len(one or "") == 64 for one in ids)
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    table = pq.read_table(copy / part).replace_schema_metadata({"model_id": "yesterday's"})
    pq.write_table(table, copy / part)
    manifest["sha256"][part] = sha256(copy / part)
    write_json(copy / "export.json", manifest)
    with pytest.raises(UserError, match=r"part-00000\.parquet is of the model yesterday's"):
        Recommender.open(copy)
