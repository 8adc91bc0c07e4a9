"""Towers for other runtimes: onnxruntime and what a compiler made answer as the model."""

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from dat_rec import Recommender
from dat_rec.config import LossConfig
from dat_rec.data.dense import AnyColumn
from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.retrieval.delta.apply import apply
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import RUNTIME_FILES, read_manifest
from dat_rec.retrieval.feature_rows import FeatureRows
from dat_rec.retrieval.golden import BFLOAT16_ROUNDING, FORM_ROUNDING
from dat_rec.retrieval.runtimes import runtimes as module
from dat_rec.retrieval.runtimes.onnx_file import sums_of_bags
from dat_rec.retrieval.runtimes.runtimes import read_runtime, write_runtimes
from dat_rec.retrieval.table_forms import Form
from dat_rec.retrieval.tower_file import QueryTower
from dat_rec.retrieval.trained import load_model
from tests.retrieval.raw_log import write_raw_log
from tests.retrieval.whole import encode_users
from tests.retrieval.world import USERS, write_dataset, write_run

PAGE = Path(__file__).parents[3] / "docs" / "export.md"
CLOSE = 1e-6
NAMES = {f"{side}_tower{end}" for side in ("query", "item") for end in (".onnx", ".aoti.pt2")}
needs_onnx = pytest.mark.skipif(
    None in map(importlib.util.find_spec, module.ONNX_PACKAGES),
    reason="onnx, onnxscript or onnxruntime is not installed: they come with dat_rec[onnx]",
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with features of every kind, dense ones too, one of which is a time in seconds."""
    return write_raw_log(tmp_path_factory.mktemp("dense"), text_ids=True).run


@pytest.fixture(scope="module")
def both(dense: Path) -> Path:
    """An int8 export of it for both runtimes; read it, do not change it."""
    export(dense, dense.parent / "export", tables="int8", runtimes=["onnx", "aotinductor"])
    return dense.parent / "export"


def questions(run: Path) -> list[dict[str, AnyColumn]]:
    """All users at once, a few, each alone, and nobody."""
    users = FeatureRows(load_model(run).dataset, "users")
    columns = users.take(np.arange(users.rows))
    alone = [np.array([user]) for user in range(users.rows)]
    asked = [np.arange(users.rows), np.arange(3, 8), *alone, np.arange(0)]
    return [{name: column.take(rows) for name, column in columns.items()} for rows in asked]


@needs_onnx
@needs_compiler
def test_both_runtimes_answer_as_the_exported_tower_any_number_of_users(
    dense: Path, both: Path
) -> None:
    ours = QueryTower(both / "query_tower.pt2")
    towers = [read_runtime(both / "query_tower.pt2", name) for name in module.RUNTIMES]
    asked = questions(dense)
    alone = [one for one in asked if len(one["user"]) == 1]
    assert 0 in [len(one["history"].values) for one in alone]
    known = [np.isfinite(one["since"].values).all() for one in alone]
    assert any(known)
    assert not all(known)
    for columns in asked:
        for tower in towers:
            found = tower.encode(columns)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, ours.encode(columns), rtol=0, atol=CLOSE)
            assert tower.model_id == read_manifest(both).model_id


@needs_onnx
@needs_compiler
def test_an_export_says_how_far_each_runtime_is_off_the_model(dense: Path, both: Path) -> None:
    made = json.loads((both / "export.json").read_text())
    assert made["runtimes"].keys() == NAMES
    assert made["sha256"].keys() > NAMES
    assert {name for name in made["sha256"] if name.endswith(".data")} <= set(RUNTIME_FILES)
    trained = load_model(dense)
    expected = encode_users(trained.model, trained.dataset, np.arange(trained.dataset.schema.users))
    (everybody, *_) = questions(dense)
    for name in module.RUNTIMES:
        off = read_runtime(both / "query_tower.pt2", name).encode(everybody) - expected
        stated = made["runtimes"][module.file_of(both / "query_tower.pt2", name).name]
        assert stated["largest_difference"] == pytest.approx(np.abs(off).max(), rel=0.06)
    # int8 rounds, and both say so.
    assert all(1e-4 < one["largest_difference"] < 3e-2 for one in made["runtimes"].values())


@needs_onnx
@needs_compiler
@pytest.mark.parametrize("call", ["onnxruntime.InferenceSession", "aoti_load_package"])
def test_the_page_tells_how_each_runtime_answers_the_golden_queries(
    both: Path, tmp_path: Path, call: str
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if call in block)
    alone = "import sys\nfor name in ('dat_rec', 'torchrec'):\n    sys.modules[name] = None\n"
    (tmp_path / "export").symlink_to(both)
    (tmp_path / "program.py").write_text(f"{alone}{code}\nnp.save('found.npy', vectors)\n")
    command = [sys.executable, "program.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    wanted = np.array(pq.read_table(both / "golden.parquet")["vector"].to_pylist())
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, rtol=0, atol=CLOSE)


@needs_onnx
@needs_compiler
def test_nothing_of_other_runtimes_is_opened_by_whoever_reads_an_export(
    both: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "export"))
    manifest = json.loads((folder / "export.json").read_text())
    for name in RUNTIME_FILES:
        (folder / name).write_bytes(b"neither a program nor a package")
        manifest["sha256"][name] = sha256(folder / name)
    (folder / "export.json").write_text(json.dumps(manifest))
    found, expected = (Recommender.open(one).top(["u001"], 5) for one in (folder, both))
    assert found.equals(expected)
    del manifest["sha256"]["query_tower.aoti.pt2"]
    (folder / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"query_tower\.aoti\.pt2: export\.json does not name it"):
        Recommender.open(folder)


@needs_onnx
def test_a_delta_gives_the_files_of_other_runtimes_whole(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    made = export(run, tmp_path / "delta", since=exported, runtimes=["onnx", "onnx"])
    apply(exported, [tmp_path / "delta"], tmp_path / "out")
    files = {name for name in RUNTIME_FILES if ".onnx" in name}
    assert {f"whole/{name}" for name in files} < made["sha256"].keys()
    assert {path.name for path in (tmp_path / "out").glob("*.onnx*")} == files
    (everybody, *_) = questions(run)
    tower = tmp_path / "out" / "query_tower.pt2"
    found = read_runtime(tower, "onnx").encode(everybody)
    np.testing.assert_allclose(found, QueryTower(tower).encode(everybody), rtol=0, atol=CLOSE)
    # And the next day without them.
    export(run, tmp_path / "next", since=tmp_path / "out")
    apply(tmp_path / "out", [tmp_path / "next"], tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.onnx*"))


@needs_onnx
@pytest.mark.parametrize(("precision", "form"), [("bfloat16", "float16"), ("float64", "float32")])
def test_every_precision_has_an_onnx_file_that_answers_as_the_model(
    tmp_path: Path, precision: str, form: Form
) -> None:
    data = write_dataset(tmp_path / "data")
    generate = precision == "float64"
    loss = LossConfig(unknown_count="typical") if generate else None
    run = write_run(tmp_path / "run", data, precision=precision, generate=generate, loss=loss)
    made = export(run, tmp_path / "export", tables=form, runtimes=["onnx"])
    trained = load_model(run)
    expected = encode_users(trained.model, trained.dataset, np.arange(USERS))
    (everybody, *_) = questions(run)
    found = read_runtime(tmp_path / "export" / "query_tower.pt2", "onnx").encode(everybody)
    close = FORM_ROUNDING[form] / 5 + (BFLOAT16_ROUNDING if precision == "bfloat16" else CLOSE)
    np.testing.assert_allclose(found, expected, rtol=0, atol=close)
    assert made["runtimes"].keys() == {"query_tower.onnx", "item_tower.onnx"}


def test_running_sums_make_the_sums_of_bags_whatever_stands_before_them() -> None:
    random = torch.Generator().manual_seed(3)
    weight = torch.randn(50, 4, generator=random)
    weight[0] = 1e4
    values = torch.randint(1, 50, (2000,), generator=random)
    values[:1000] = 0
    offsets = torch.tensor([0, 1000, 1000, 1003, 1900, 2000])
    found, *_ = sums_of_bags(weight, values, offsets, False, 0, False, None, True, None)
    exact = weight.double()[values]
    expected = [exact[a:b].sum(0) for a, b in pairwise(offsets.tolist())]
    np.testing.assert_allclose(found, torch.stack(expected), rtol=1e-6, atol=1e-6)
    assert (
        sums_of_bags(weight, values, offsets, False, 1, False, None, True, None) is NotImplemented
    )


class Bessel(nn.Module):
    """A query tower in form, of an operator that ONNX does not have."""

    def forward(self, values: dict[str, Tensor], offsets: dict[str, Tensor]) -> Tensor:
        return torch.special.bessel_j0(values["user"].double()).unsqueeze(1)


@needs_onnx
def test_a_tower_that_a_runtime_cannot_express_is_refused_in_a_line(tmp_path: Path) -> None:
    example = ({"user": torch.arange(4)}, {"user": torch.arange(5)})
    free = {"user": {0: torch.export.Dim.AUTO}}
    program = torch.export.export(Bessel(), example, dynamic_shapes=(free, free))
    torch.export.save(program, tmp_path / "query_tower.pt2")
    with pytest.raises(UserError, match=r"query_tower\.onnx: onnx does not take this tower") as e:
        write_runtimes(tmp_path / "query_tower.pt2", lambda: program, ["onnx"], "of a model")
    assert "\n" not in str(e.value)
    assert "bessel" in str(e.value)


@needs_onnx
def test_a_runtime_that_answers_otherwise_is_refused_and_nothing_is_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = module.with_mapped_tables

    def of_other_weights(
        program: torch.export.ExportedProgram, path: Path
    ) -> torch.export.ExportedProgram:
        program = copy.deepcopy(mapped(program, path))
        with torch.no_grad():
            program.state_dict["tower.layers.0.weight"].mul_(1.01)
        return program

    monkeypatch.setattr(module, "with_mapped_tables", of_other_weights)
    with pytest.raises(UserError, match=r"item_tower\.onnx: a vector is off by"):
        export(run, tmp_path / "out", runtimes=["onnx"])
    assert not list(tmp_path.iterdir())


def test_what_a_runtime_needs_is_asked_for_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UserError, match="no-such-compiler is not on the PATH: install g"):
        export(run, tmp_path / "out", runtimes=["aotinductor"])
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and g\+\+ is not on the PATH"):
        export(run, tmp_path / "out", runtimes=["aotinductor"])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        UserError, match=r"onnxscript(, onnxruntime)? not installed: pip install 'dat_rec\[onnx\]'"
    ):
        export(run, tmp_path / "out", runtimes=["onnx"])
    with pytest.raises(UserError, match="--runtimes tflite: there are onnx and aotinductor"):
        export(run, tmp_path / "out", runtimes=["tflite"])  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())
