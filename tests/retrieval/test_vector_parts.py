"""Item vectors of few bits: what is stored, by the definition; what is answered, by brute force."""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.publish.catalogue import Catalogue
from dat_rec.retrieval import fit_blend
from dat_rec.retrieval.approximate import tune
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export, open_index
from dat_rec.retrieval.golden_queries import golden_problem
from dat_rec.retrieval.item_index import index_in_memory
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.table_forms import FORMS, Form
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.retrieval.trained import load_model
from dat_rec.retrieval.vector_parts import (
    dim_of,
    float_vectors,
    read_vectors,
    vectors_table,
    write_vectors,
)
from tests.retrieval.delta.chain import day_run, small_parts
from tests.retrieval.whole import encode_items
from tests.retrieval.world import ITEMS, SERVED

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
FEW: tuple[Form, ...] = ("float16", "int8")
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def few(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    """The run's exports in few bits; read them, do not change them."""
    root = tmp_path_factory.mktemp("few")
    for form in FEW:
        export(run, root / form, tables=form)
    return {form: root / form for form in FEW}


def by_definition(form: Form, unit: Floats) -> tuple[list[list[float]], list[np.float32], Floats]:
    """What is stored of unit vectors, their scales, and what is made of it, number by number."""
    stored, scales, made = [], [], []
    for row in unit:
        if form == "float16":
            stored.append([float(np.float16(x)) for x in row])
            made.append(stored[-1])
            continue
        scale = np.float32(np.abs(row).max() / np.float32(127))
        stored.append([int(np.rint(x / scale)) if scale else 0 for x in row])
        scales.append(scale)
        made.append([np.float32(q) * scale for q in stored[-1]])
    return stored, scales, np.array(made, np.float32)


@pytest.mark.parametrize("form", FEW)
def test_parts_hold_unit_vectors_by_the_definition_and_popularity_as_it_is(
    few: dict[Form, Path], run: Path, form: Form
) -> None:
    trained = load_model(run)
    exact = encode_items(trained.model, trained.dataset)
    stored, scales, made = by_definition(form, exact[:, :-1])
    parts = pq.read_table(few[form] / "item_vectors")
    kind = {"float16": pa.float16(), "int8": pa.int8()}[form]
    assert parts.schema.field("vector").type == pa.list_(kind, SERVED - 1)
    assert parts["vector"].to_pylist() == stored
    assert parts["popularity"].to_pylist() == exact[:, -1].tolist()
    assert parts["item_index"].to_pylist() == list(range(ITEMS))
    assert ("scale" in parts.column_names) == (form == "int8")
    if form == "int8":
        assert parts["scale"].to_pylist() == scales
    expected = np.hstack([made, exact[:, -1:]])
    opened = Export.open(few[form])
    np.testing.assert_array_equal(opened.item_vectors, expected)
    np.testing.assert_array_equal(opened.index.reconstruct_n(0, ITEMS), expected)
    manifest = json.loads((few[form] / "export.json").read_text())
    assert (manifest["version"], manifest["dim"]) == (4, SERVED)
    assert "index.faiss" not in manifest["sha256"]
    assert not (few[form] / "index.faiss").exists()
    off = np.abs(expected - exact).max()
    assert manifest["item_vectors"] == {"form": form, "largest_difference": float(f"{off:.2g}")}
    assert 0 < off < {"float16": 3e-4, "int8": 5e-3}[form]


@pytest.mark.parametrize("form", FORMS)
def test_the_page_reads_the_vectors_by_parquet_alone(
    few: dict[Form, Path], exported: Path, form: Form
) -> None:
    folder = few.get(form, exported)
    (code,) = (block for block in PAGE.read_text().split("```") if "\nunit = parts" in block)
    found: dict[str, Floats] = {}
    exec(code.removeprefix("python").replace('"export/', f'"{folder}/'), found)
    assert found["vectors"].dtype == np.float32
    np.testing.assert_array_equal(found["vectors"], Export.open(folder).item_vectors)


@pytest.mark.parametrize("form", FEW)
def test_lists_are_those_of_brute_force_over_what_is_stored(
    few: dict[Form, Path], form: Form
) -> None:
    recommender = Recommender.open(few[form])
    parts = pq.read_table(few[form] / "item_vectors").to_pydict()
    scale = np.array(parts.get("scale", [1.0] * ITEMS))
    unit = np.array(parts["vector"], np.float64) * scale[:, None]
    items = np.hstack([unit, np.array(parts["popularity"])[:, None]])
    users = recommender.user_ids
    queries = np.array(recommender.vectors(users)["vector"].to_pylist())
    scores = queries @ items.T
    found = recommender.top(users, k=7)
    best = -np.sort(-scores, axis=1)[:, :7]
    np.testing.assert_allclose(found["score"].to_numpy().reshape(-1, 7), best, atol=1e-6)
    place = {item: row for row, item in enumerate(parts["item_id"])}
    given = np.array([place[item] for item in found["item_id"].to_pylist()]).reshape(-1, 7)
    np.testing.assert_allclose(np.take_along_axis(scores, given, 1), best, atol=1e-6)
    some = set(parts["item_id"][::3])
    filtered = recommender.top(users, k=7, available=sorted(some), exclude_seen=True)
    assert set(filtered["item_id"].to_pylist()) <= some
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    near = recommender.similar(k=3)["score"].to_numpy().reshape(-1, 3)
    np.testing.assert_allclose(near, -np.sort(-alike, axis=1)[:, :3], atol=1e-6)


@pytest.mark.parametrize("form", FEW)
def test_golden_queries_and_stores_have_what_the_recommender_has(
    few: dict[Form, Path], form: Form
) -> None:
    folder = few[form]
    assert golden_problem(folder, QueryTower(folder / "query_tower.pt2"), 1e-5) == ""
    recommender = Recommender.open(folder)
    golden = pq.read_table(folder / "golden.parquet").to_pylist()
    users = [row["raw"]["user_id"] for row in golden]
    known = [number for number, user in enumerate(users) if user is not None]
    lists = recommender.top([users[number] for number in known], k=20)
    expected = [item for number in known for item in golden[number]["item_ids"]]
    assert lists["item_id"].to_pylist() == expected
    with Catalogue.open(folder) as catalogue:
        batches = pa.Table.from_batches(catalogue.batches())
        several = [vectors for _, vectors in catalogue.vectors()]
    vectors = np.array(batches["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, recommender.export.item_vectors)
    np.testing.assert_array_equal(np.concatenate(several), recommender.export.item_vectors)
    assert batches.schema.field("vector").type == pa.list_(pa.float32(), SERVED)


@pytest.mark.parametrize("popularity", [True, False])
@pytest.mark.parametrize("form", FEW)
def test_a_part_read_back_and_written_again_has_the_same_bytes(
    tmp_path: Path, form: Form, popularity: bool
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 33)).astype(np.float32)
    vectors[:, :32] /= np.linalg.norm(vectors[:, :32], axis=1, keepdims=True)
    vectors[5, :32] = 0
    ids = pa.table({"item_id": rng.permutation(3000) + 10**9})
    table = vectors_table(ids, 70_000, vectors, "a model", form, popularity=popularity)
    write_vectors(table, tmp_path / "once.parquet")
    read = pq.read_table(tmp_path / "once.parquet")
    write_vectors(read, tmp_path / "twice.parquet")
    assert sha256(tmp_path / "once.parquet") == sha256(tmp_path / "twice.parquet")
    assert read.schema.metadata == {b"model_id": b"a model"}
    assert read["item_index"].to_pylist() == list(range(70_000, 73_000))
    found = read_vectors(tmp_path / "once.parquet")
    np.testing.assert_array_equal(found, float_vectors(table))
    np.testing.assert_array_equal(
        found, np.concatenate(list(map(float_vectors, read.to_batches(700))))
    )
    assert dim_of(read.schema) == 33
    close = {"float16": 1e-3, "int8": 2e-2}[form]
    np.testing.assert_allclose(found, vectors, rtol=0, atol=close)
    if popularity:
        np.testing.assert_array_equal(found[:, -1], vectors[:, -1])


def test_parts_of_few_bits_take_few_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows, dim = 20_000, 64
    vectors = rng.normal(size=(rows, dim + 1)).astype(np.float32)
    vectors[:, :dim] /= np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
    ids = pa.table({"item_id": np.arange(rows)})
    for form, numbers in (("float16", 2 * dim), ("int8", dim + 4)):
        table = vectors_table(ids, 0, vectors, None, form, popularity=True)
        write_vectors(table, tmp_path / form)
        # The vector, the popularity, and the id, which takes two bytes of so many.
        assert (tmp_path / form).stat().st_size < 1.02 * rows * (numbers + 4 + 2)


def test_an_index_in_memory_leaves_with_those_who_hold_it() -> None:
    vectors = np.random.default_rng(2).normal(size=(500, 9)).astype(np.float32)
    index, found = index_in_memory([vectors[:300], vectors[300:]], 500, 9)
    np.testing.assert_array_equal(found, vectors)
    _, items = index.search(vectors[:5], 3)
    np.testing.assert_array_equal(items, np.argsort(-(vectors[:5] @ vectors.T), axis=1)[:, :3])
    assert "memfd:index.faiss" in Path("/proc/self/maps").read_text()
    del index
    np.testing.assert_array_equal(found, vectors)
    del found
    gc.collect()
    assert "memfd:index.faiss" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("forms", [("int8", "int8"), ("float32", "int8"), ("int8", "float32")])
def test_a_delta_leads_to_the_full_export_byte_for_byte(
    forms: tuple[Form, Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_blend, "CUTOFF", 20)
    runs = [day_run(tmp_path / f"day{day}", day) for day in (0, 1)]
    with small_parts():
        export(runs[0], tmp_path / "base", tables=forms[0], blend_history=True)
        made, delta = (
            export(runs[1], tmp_path / name, since=since, tables=forms[1], blend_history=True)
            for name, since in (("full", None), ("delta", tmp_path / "base"))
        )
    parts = ("item_vectors", "items", "users", "seen", "own_items")
    whole = [name for name in delta["sha256"] if name.startswith("whole/")]
    assert not [name for name in whole if name.removeprefix("whole/").startswith(parts)]
    assert len([name for name in made["sha256"] if name.startswith("item_vectors/")]) == 8
    apply(tmp_path / "base", [tmp_path / "delta"], tmp_path / "out")
    for name, digest in made["sha256"].items():
        assert sha256(tmp_path / "out" / name) == digest
    manifests = [(tmp_path / name / "export.json").read_bytes() for name in ("out", "full")]
    assert manifests[0] == manifests[1]
    one, other = (Export.open(tmp_path / name) for name in ("out", "full"))
    np.testing.assert_array_equal(one.item_vectors, other.item_vectors)


def test_an_approximate_index_proposes_and_what_is_stored_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "LEAST", 8)
    export(run, tmp_path / "export", tables="int8", index="ivf", recall_at=20)
    recommender = Recommender.open(tmp_path / "export")
    assert recommender.index is not None
    # The world's index has one list, and so finds what the exact search finds.
    assert recommender.top(k=9).equals(recommender.top(k=9, exact=True))
    assert recommender.similar(k=9).equals(recommender.similar(k=9, exact=True))


def test_an_export_of_before_with_int8_tables_and_exact_vectors_opens(
    few: dict[Form, Path], exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(few["int8"], tmp_path / "before")
    part = "item_vectors/part-00000.parquet"
    whose = pq.read_schema(folder / part).metadata
    exact = pq.read_table(exported / part).replace_schema_metadata(whose)
    pq.write_table(exact, folder / part)
    shutil.copy(exported / "index.faiss", folder)
    manifest = json.loads((folder / "export.json").read_text())
    manifest["sha256"] |= {name: sha256(folder / name) for name in (part, "index.faiss")}
    del manifest["item_vectors"]
    (folder / "export.json").write_text(json.dumps(manifest | {"version": 2}))
    found = Recommender.open(folder).export.item_vectors
    np.testing.assert_array_equal(found, Export.open(exported).item_vectors)


def test_an_index_that_belongs_to_other_vectors_and_a_bad_part_are_refused(
    few: dict[Form, Path], exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(few["int8"], tmp_path / "export")
    shutil.copy(exported / "index.faiss", folder)
    with pytest.raises(UserError, match=r"index\.faiss: export\.json does not name it"):
        Export.open(folder)
    (folder / "index.faiss").unlink()
    (folder / "item_vectors" / "part-00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"item_vectors: cannot be read .* export anew") as error:
        open_index(folder)
    assert "\n" not in str(error.value)
