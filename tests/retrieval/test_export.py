import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import dat_rec
from dat_rec.errors import UserError
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import FILES, FRESH_FILES, Export
from dat_rec.retrieval.recommend import recommend
from dat_rec.retrieval.trained import load_model
from tests.retrieval.whole import encode_items, encode_users
from tests.retrieval.world import SERVED, USERS, write_run

EVERY = (
    *FILES,
    "index.faiss",
    *FRESH_FILES,
    *(f"{part}/part-00000.parquet" for part in ("item_vectors", "users", "seen")),
)
# What a serving process does: torch and Parquet, nothing of ours, nothing of TorchRec's.
SERVING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dat_rec", "torchrec", "fbgemm_gpu"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import numpy as np, pyarrow.parquet as pq, torch


def encode(tower, users):
    values, offsets = {}, {}
    for name in ("user", "age", "history"):
        lists = [user[name] if name == "history" else [user[name]] for user in users]
        values[name] = torch.tensor([v for part in lists for v in part], dtype=torch.int64)
        offsets[name] = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return tower(values, offsets).numpy()

for folder in sys.argv[1:]:
    tower = torch.export.load(f"{folder}/query_tower.pt2").module()
    users = pq.read_table(f"{folder}/users").to_pylist()
    alone = np.concatenate([encode(tower, [user]) for user in users])
    together, none = encode(tower, users), encode(tower, [])
    np.savez(f"{folder}/answers.npz", together=together, alone=alone, none=none)
"""


def test_query_tower_does_not_tell_where_its_source_lay(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "export" / "query_tower.pt2") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (program,) = (content for name, content in records.items() if name.endswith("model.json"))
    assert json.loads(program)["graph_module"]
    for folder in (Path(dat_rec.__file__).parents[1], Path(torch.__file__).parent):
        assert not [name for name, content in records.items() if str(folder).encode() in content]


def test_query_tower_runs_on_torch_alone(run: Path, tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", run.parent / "data", augment=False)
    runs = {tmp_path / "of_dat": run, tmp_path / "of_plain": plain}
    for folder, source in runs.items():
        export(source, folder)
    command = [sys.executable, "-c", SERVING, *map(str, runs)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, source in runs.items():
        trained = load_model(source)
        model, dataset = trained.model, trained.dataset
        expected = encode_users(model, dataset, np.arange(USERS))
        assert min(len(h) for h in dataset.table("users", ["history"])[0].to_pylist()) == 0
        answers = np.load(folder / "answers.npz")
        np.testing.assert_allclose(answers["together"], expected, atol=1e-6)
        np.testing.assert_allclose(answers["alone"], expected, atol=1e-6)
        assert answers["none"].shape == (0, SERVED)


def test_folder_holds_what_the_model_and_dataset_hold(run: Path, exported: Path) -> None:
    trained = load_model(run)
    model, dataset = trained.model, trained.dataset
    parts = pq.read_table(exported / "item_vectors")
    vectors = np.array(parts["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, encode_items(model, dataset))
    assert parts["item_index"].to_pylist() == list(range(60))
    assert parts["item_id"].to_pylist() == [1000 + item for item in range(60)]
    index = faiss.read_index(str(exported / "index.faiss"))
    np.testing.assert_array_equal(index.reconstruct_n(0, index.ntotal), vectors)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    columns = ["item_id", "title", "category_name", "train_count"]
    assert pq.read_table(exported / "items.parquet").equals(dataset.table("items", columns))
    columns = ["user_id", "user", "age", "history"]
    assert pq.read_table(exported / "users").equals(dataset.table("users", columns))
    manifest = json.loads((exported / "export.json").read_text("utf-8"))
    assert (manifest["dim"], manifest["items"], manifest["users"]) == (SERVED, 60, 30)
    assert [(f["name"], f["rows"]) for f in manifest["features"]] == [
        ("user", 30),
        ("age", 4),
        ("history", 46),
    ]
    assert manifest["source"] == {"dataset": "by hand", "run": str(run), "checkpoint": 12}
    digests = subprocess.run(
        ["sha256sum", *EVERY], cwd=exported, capture_output=True, text=True, check=True
    )
    listed = dict(reversed(line.split()) for line in digests.stdout.splitlines())
    assert manifest["sha256"] == listed
    there = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert there == {*EVERY, "export.json"}
    whole = faiss.IndexFlatIP(SERVED)
    whole.add(vectors)
    assert (exported / "index.faiss").read_bytes() == bytes(faiss.serialize_index(whole).data)


def test_a_taken_folder_is_kept_unless_asked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"holds no export\.json"):
            export(run, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    (tmp_path / "out" / "mine.txt").rename(tmp_path / "out" / "export.json")
    with pytest.raises(UserError, match="already there"):
        export(run, tmp_path / "out")
    export(run, tmp_path / "out", overwrite=True)
    Export.open(tmp_path / "out")


def test_a_run_that_cannot_be_loaded_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        export(tmp_path / "nothing", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from dat_rec.retrieval import export as module

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

module.write_json = die
module.export(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_an_export_killed_before_its_last_file_is_not_accepted(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(run), str(out)]
    assert subprocess.run(command, env=os.environ | _root()).returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["out.partial"]
    for folder in (out, tmp_path / "out.partial"):
        with pytest.raises(UserError, match="is not an export"):
            recommend(folder, 3, tmp_path / "recs.parquet")
    export(run, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _root() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("harm", ["a byte flipped", "cut", "gone"])
def test_a_damaged_file_is_refused(exported: Path, tmp_path: Path, name: str, harm: str) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[: -1 if harm == "cut" else None])
    with pytest.raises(UserError, match="No such file" if harm == "gone" else "damaged") as error:
        Export.open(folder)
    assert str(folder / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_that_the_manifest_does_not_name_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    shutil.copy(folder / "users/part-00000.parquet", folder / "users/part-00001.parquet")
    with pytest.raises(UserError, match=r"part-00001\.parquet: export\.json does not name it"):
        Export.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1, this program reads 2, 3 and 4: export anew"),
        ({"sha256": {}}, "sha256 has no items.parquet: export anew"),
        ({"sha256": None}, "sha256 is None: it must be an object: export anew"),
        ({"features": [{"name": "user"}]}, r"features\[0\].side is missing: export anew"),
    ],
)
def test_a_malformed_manifest_is_refused(
    exported: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    manifest = json.loads((folder / "export.json").read_text("utf-8"))
    (folder / "export.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=message):
        Export.open(folder)
    (folder / "export.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Export.open(folder)
