"""Several ranks give what one process gives, to the last byte: metrics.json and every file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import sha256
from dat_rec.retrieval import answer, encode, export_parts, export_rows, fit_blend, golden, ranking
from dat_rec.retrieval import export as export_module
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.ranks import all_ranks
from dat_rec.retrieval.recommend import recommend
from tests.distributed.ranks import run_ranks
from tests.retrieval.world import write_dataset, write_run


def in_small_blocks() -> None:
    """As if the world were large: many blocks, parts and columns for each rank."""
    fit_blend.CUTOFF = 20
    encode.ROWS, encode.TOWER_ROWS, ranking.COLUMNS = 7, 3, 5
    export_parts.PART_ROWS = export_rows.PART_ROWS = golden.PART_ROWS = 8
    export_module.BLOCK_BYTES = 300


def evaluated_and_exported(run: Path, out: Path) -> dict[str, str]:
    """Evaluate and export; what was written, by its path."""
    in_small_blocks()
    with all_ranks():
        evaluate(run, blend_history=True)
        export(run, out, overwrite=True, blend_history=True)
    written = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    written["metrics.json"] = run / "metrics.json"
    return {name: sha256(path) for name, path in written.items()}


@pytest.fixture(scope="module")
def by_one(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An export by one process, and what it wrote; read it, do not change it."""
    out = tmp_path_factory.mktemp("by_one") / "out"
    (alone,) = run_ranks(evaluated_and_exported, 1, run, out)
    return out, alone


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_write_what_one_process_writes(
    run: Path, by_one: tuple[Path, dict[str, str]], tmp_path: Path, world: int
) -> None:
    out, alone = by_one
    # They overwrite an export that there is.
    shutil.copytree(out, tmp_path / "out")
    together = run_ranks(evaluated_and_exported, world, run, tmp_path / "out")
    assert together[0] == alone
    assert {"metrics.json", "export.json", "item_vectors/part-00007.parquet"} <= alone.keys()
    for part in ("users", "seen", "own_items"):
        assert {f"{part}/part-0000{number}.parquet" for number in range(4)} <= alone.keys()
    opened = Export.open(tmp_path / "out")
    users = Dataset.open(run.parent / "data").user_columns()
    assert np.array_equal(opened.user_columns["history"].values, users["history"].values)


def exported_in_few_bits(run: Path, out: Path) -> dict[str, str]:
    """The digests that export.json names."""
    in_small_blocks()
    with all_ranks():
        digests: dict[str, str] = export(run, out, tables="int8", blend_history=True)["sha256"]
    return digests


def test_ranks_write_few_bits_as_one_process_does(run: Path, tmp_path: Path) -> None:
    (alone,) = run_ranks(exported_in_few_bits, 1, run, tmp_path / "alone")
    found = run_ranks(exported_in_few_bits, 2, run, tmp_path / "together")
    assert found == [alone, alone]
    assert {f"item_vectors/part-0000{number}.parquet" for number in range(8)} <= alone.keys()
    assert "index.faiss" not in alone
    opened = (Export.open(tmp_path / name) for name in ("alone", "together"))
    assert np.array_equal(*(one.item_vectors for one in opened))


def exported_for_onnx(run: Path, out: Path) -> list[str]:
    """The files of other runtimes that export.json names."""
    with all_ranks():
        made = export(run, out, runtimes=["onnx"])
    return sorted(name for name in made["sha256"] if ".onnx" in name)


def test_two_ranks_write_for_another_runtime(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="comes with dat_rec[onnx]")
    named = run_ranks(exported_for_onnx, 2, run, tmp_path / "out")
    there = sorted(path.name for path in (tmp_path / "out").glob("*.onnx*"))
    assert named == [there, there]
    assert {"query_tower.onnx", "item_tower.onnx"} < {*there}
    Export.open(tmp_path / "out")


def recommended(export: Path, out: Path) -> tuple[int, int]:
    """Answer all users, a few at a time."""
    answer.MOST_USERS = 4
    return recommend(export, 5, out, blend_history=export.name == "blended")


@pytest.mark.parametrize("name", ["exported", "blended"])
def test_ranks_recommend_what_one_process_recommends(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    folder = request.getfixturevalue(name)
    (alone,) = run_ranks(recommended, 1, folder, tmp_path / "alone.parquet")
    found = run_ranks(recommended, 3, folder, tmp_path / "together")
    assert found == [alone] * 3
    parts = sorted(path.name for path in (tmp_path / "together").iterdir())
    assert parts == [f"part-0000{rank}.parquet" for rank in range(3)]
    assert pq.read_table(tmp_path / "together").equals(pq.read_table(tmp_path / "alone.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.parquet", "together"]


def refused(run: Path, out: Path, export_of: Path) -> list[tuple[str, str]]:
    """What a rank is told by commands whose input is bad, or another than the other rank's."""
    told = []
    # As of two hosts that see different disks.
    rank = rank_and_ranks()[0]
    own = out.with_name(f"{out.name}-of-{rank}")
    shutil.copytree(run.parent / "data", own)
    schema = json.loads((own / "schema.json").read_text())
    (own / "schema.json").write_text(json.dumps(schema | {"source": f"of {rank}"}))
    pq.write_table(pa.table({"user_id": ["u1", "u2", "x"][rank:]}), own / "asked.parquet")
    for command in (
        lambda: export(run, out),
        lambda: export(run, out / "new", run / "nowhere"),
        lambda: evaluate(run, checkpoint="11"),
        lambda: recommend(export_of, 0, out / "recs"),
        lambda: recommend(export_of, 3, out / "recs", out / "absent.parquet"),
        lambda: recommend(export_of, 3, out / "recs", own / "asked.parquet"),
        lambda: evaluate(run, own),
    ):
        try:
            command()
        except UserError as error:
            told.append((type(error).__name__, str(error)))
    return told


def refused_together(run: Path, out: Path, export_of: Path) -> list[tuple[str, str]]:
    """The same, in one process group: what is refused alike leaves it usable."""
    with all_ranks():
        return refused(run, out, export_of)


def test_bad_input_is_refused_on_all_ranks_in_the_same_words(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    first, second = run_ranks(refused_together, 2, run, tmp_path, exported)
    assert first == second
    assert {kind for kind, _ in first} <= {"SharedError", "UserError"}
    wanted = ["holds no export", "nowhere", "no checkpoint '11'", "--k is 0", "absent"]
    wanted += ["the queries or an option differs between rank 0 and rank 1"]
    wanted += ["the run or the dataset differs between rank 0 and rank 1"]
    assert len(first) == len(wanted)
    assert all(word in text for word, (_, text) in zip(wanted, first, strict=True)), first
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


KILLED = """
import os, signal, sys
from importlib import import_module
from dat_rec.cli import main

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, function = sys.argv.pop(1), sys.argv.pop(1)
if os.environ["RANK"] == "1":
    setattr(import_module(where), function, die)
main()
"""


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        ("evaluate", "model_ranks", "user_kinds"),
        ("export", "export", "write_users"),
        ("recommend", "recommend", "_write"),
    ],
)
def test_a_rank_that_is_killed_ends_all_and_leaves_nothing(
    run: Path, exported: Path, tmp_path: Path, command: str, module: str, function: str
) -> None:
    data = write_dataset(tmp_path / "data")
    copy = write_run(tmp_path / "run", data)
    out, place = tmp_path / "out", f"dat_rec.retrieval.{module}"
    words = {
        "evaluate": ["--run", str(copy), "--data", str(data)],
        "export": ["--run", str(copy), "--data", str(data), "--out", str(out)],
        "recommend": ["--export", str(exported), "--k", "3", "--out", str(out)],
    }[command]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    program = [sys.executable, "-c", KILLED, place, function, command, *words]
    before = {path.name for path in (*tmp_path.iterdir(), *copy.iterdir())}
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "--", *program],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "dat-rec: rank 0: stopped: rank 1 died" in done.stderr
    assert {path.name for path in (*tmp_path.iterdir(), *copy.iterdir())} == before
