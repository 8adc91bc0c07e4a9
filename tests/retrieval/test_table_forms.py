"""Tables of few bits: what is stored, by the definition; what towers make of it, by hand."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dat_rec.files import sha256
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.delta.tower import write_new_tower, write_tower_difference
from dat_rec.retrieval.divided import DividedRows
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export, read_manifest
from dat_rec.retrieval.query_encoder import ItemEncoder, QueryEncoder, query_program
from dat_rec.retrieval.table_forms import FORMS, Form, StoredTable, stored
from dat_rec.retrieval.tower_file import QueryTower, check_records, in_words, write_tower
from dat_rec.retrieval.tower_inputs import to_inputs
from dat_rec.retrieval.trained import Trained, load_model
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import USERS

CLOSE = {"float32": 1e-6, "float16": 2e-3, "int8": 3e-2}


def written(trained: Trained, form: Form, path: Path, change: float = 0) -> Path:
    """The query tower in a form; ``change`` is added to rows 1 and 3 of its first table."""
    features = trained.dataset.schema.side("query")
    encoder = QueryEncoder(trained.model, features, form)

    def blocks(name: str, rows: DividedRows) -> tuple[Tensor, ...]:
        local = rows.local.clone()
        if name.startswith("tables.0."):
            local[[1, 3]] += change
        return local.split(7)

    write_tower(query_program(encoder, features), encoder.contents, blocks, path, "of a model")
    return path


def by_definition(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(R, D) q and (R, 1) s, row by row."""
    rows, scales = [], []
    for row in table:
        scale = np.float32(np.abs(row).max() / np.float32(127))
        scales.append([scale])
        rows.append([int(np.rint(x / scale)) if scale else 0 for x in row])
    return np.array(rows, np.int8), np.array(scales, np.float32)


def test_int8_is_the_nearest_integer_of_a_row_and_its_scale() -> None:
    table = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    table[7] = 0
    table[8] *= 1e-30
    block = torch.from_numpy(table)
    q = stored(block, torch.int8, "tables.0.weight").numpy()
    s = stored(block, torch.float32, "tables.0.scale").numpy()
    expected_q, expected_s = by_definition(table)
    np.testing.assert_array_equal(q, expected_q)
    np.testing.assert_array_equal(s, expected_s)
    assert q.min() == -127 or q.max() == 127
    assert (np.abs(q * s - table) <= s / 2 * (1 + 1e-6)).all()
    assert not q[7].any()


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_bags_are_sums_of_what_is_stored(form: Form) -> None:
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    q, s = by_definition(table.numpy())
    rows = q * s if form == "int8" else table.numpy().astype(np.float16).astype(np.float32)
    scale = torch.from_numpy(s) if form == "int8" else None
    weight = torch.from_numpy(q) if form == "int8" else table.half()
    values, offsets = torch.tensor([8, 1, 1, 0]), torch.tensor([0, 1, 1, 4, 4])
    found = StoredTable(weight, scale)(values, offsets).numpy()
    expected = [rows[8], np.zeros(4), rows[1] + rows[1] + rows[0], np.zeros(4)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    nothing = StoredTable(weight, scale)(values[:0], torch.zeros(3, dtype=torch.int64))
    assert nothing.tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("form", FORMS)
def test_a_tower_of_every_form_runs_on_torch_and_without_its_compiler_alike(
    form: Form, run: Path, tmp_path: Path
) -> None:
    trained = load_model(run)
    path = written(trained, form, tmp_path / "tower.pt2")
    check_records(path)
    expected = encode_users(trained.model, trained.dataset, np.arange(USERS))
    columns = trained.dataset.user_columns()
    ours, plain = QueryTower(path), torch.export.load(path).module()
    other = QueryTower(path, by_torch_export=True)
    for count in (USERS, 1, 0):
        query = {name: column.take(np.arange(count)) for name, column in columns.items()}
        found = ours.encode(query)
        np.testing.assert_allclose(found, expected[:count], rtol=0, atol=CLOSE[form])
        assert np.array_equal(found, plain(*to_inputs(query)).numpy())
        assert np.array_equal(found, other.encode(query))
    # The tables are pages of the file, in the bits that it has.
    assert type(ours._module).__name__ == "Program"
    assert ours.model_id == "of a model"
    config = trained.model.embeddings.tables["user"].local
    with zipfile.ZipFile(path) as archive:
        sizes = sorted(info.file_size for info in archive.infolist())
    item = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}[form].itemsize
    assert config.numel() * item in sizes
    mapped = Path("/proc/self/maps").read_text()
    assert str(path) in mapped


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_the_difference_of_two_towers_makes_the_new_one_byte_for_byte(
    form: Form, run: Path, tmp_path: Path
) -> None:
    trained = load_model(run)
    base = written(trained, form, tmp_path / "base.pt2")
    new = written(trained, form, tmp_path / "new.pt2", change=0.5)
    plain = written(trained, "float32", tmp_path / "plain.pt2")
    assert all(map(in_words, (base, new, plain)))
    assert sha256(base) != sha256(new)
    for number, (first, last) in enumerate([(base, new), (plain, new), (base, plain)]):
        difference = tmp_path / f"difference{number}"
        write_tower_difference(difference, last, first)
        write_new_tower(difference, first, tmp_path / "made.pt2")
        assert sha256(tmp_path / "made.pt2") == sha256(last)
    changed = pq.read_table(tmp_path / "difference0" / "tables.0.weight" / "changed.parquet")
    assert len(changed) == 2


def test_an_int8_export_says_how_far_it_is_off_and_follows_a_float32_one(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    delta = export(run, tmp_path / "delta", since=exported, tables="int8")
    apply(exported, [tmp_path / "delta"], tmp_path / "out")
    assert delta["sequence"] == 1
    made = json.loads((tmp_path / "out" / "export.json").read_text())
    opened, trained = Export.open(tmp_path / "out"), load_model(run)
    off = opened.tower.encode(trained.dataset.user_columns()) - encode_users(
        trained.model, trained.dataset, np.arange(USERS)
    )
    assert made["tables"]["form"] == "int8"
    stated = made["tables"]["largest_difference"]
    assert stated == pytest.approx(np.abs(off).max(), rel=0.06)
    assert 1e-4 < stated < CLOSE["int8"]
    exact = encode_items(trained.model, trained.dataset)
    np.testing.assert_allclose(opened.item_vectors, exact, rtol=0, atol=5e-3)
    ids = [read_manifest(folder).model_id for folder in (exported, tmp_path / "out")]
    assert None not in ids
    assert ids[0] != ids[1]


def test_item_towers_hold_one_row_of_the_items_own_tables(run: Path) -> None:
    trained = load_model(run)
    encoder = ItemEncoder(trained.model, trained.dataset.schema.side("item"), "int8")
    shapes = {name: int(rows.bounds[-1]) for name, rows in encoder.contents.items()}
    assert shapes == {
        "tables.0.weight": 4,
        "tables.0.scale": 4,
        "tables.1.weight": 1,
        "tables.1.scale": 1,
        "augmented.weight": 1,
        "augmented.scale": 1,
    }
