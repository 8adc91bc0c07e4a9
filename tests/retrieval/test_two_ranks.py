"""Several ranks give what one process gives, to the last byte: metrics.json and every file."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.files import sha256
from dat_rec.retrieval import answer, encode, export_parts, golden, ranking
from dat_rec.retrieval import export as export_module
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.export import export
from dat_rec.retrieval.exported import Export
from dat_rec.retrieval.ranks import all_ranks
from dat_rec.retrieval.recommend import recommend
from tests.distributed.ranks import run_ranks


def in_small_blocks() -> None:
    """As if the world were large: many blocks, parts and columns for each rank."""
    encode.ROWS, encode.TOWER_ROWS, ranking.COLUMNS = 7, 3, 5
    export_parts.PART_ROWS = golden.PART_ROWS = 8
    export_module.BLOCK_BYTES = 300


def evaluated_and_exported(run: Path, out: Path) -> dict[str, str]:
    """Evaluate and export; what was written, by its path."""
    in_small_blocks()
    with all_ranks():
        evaluate(run)
        export(run, out, overwrite=True)
    written = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    written["metrics.json"] = run / "metrics.json"
    return {name: sha256(path) for name, path in written.items()}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_write_what_one_process_writes(run: Path, tmp_path: Path, world: int) -> None:
    (alone,) = run_ranks(evaluated_and_exported, 1, run, tmp_path / "out")
    together = run_ranks(evaluated_and_exported, world, run, tmp_path / "out")
    assert together[0] == alone
    assert {"metrics.json", "export.json", "item_vectors/part-00007.parquet"} <= alone.keys()
    assert {f"users/part-0000{number}.parquet" for number in range(4)} <= alone.keys()
    opened = Export.open(tmp_path / "out")
    users = Dataset.open(run.parent / "data").user_columns()
    assert np.array_equal(opened.user_columns["history"].values, users["history"].values)


def recommended(export: Path, out: Path) -> tuple[int, int]:
    """Answer all users, a few at a time."""
    answer.MOST_USERS = 4
    return recommend(export, 5, out)


def test_ranks_recommend_what_one_process_recommends(exported: Path, tmp_path: Path) -> None:
    (alone,) = run_ranks(recommended, 1, exported, tmp_path / "alone.parquet")
    found = run_ranks(recommended, 3, exported, tmp_path / "together")
    assert found == [alone] * 3
    parts = sorted(path.name for path in (tmp_path / "together").iterdir())
    assert parts == [f"part-0000{rank}.parquet" for rank in range(3)]
    assert pq.read_table(tmp_path / "together").equals(pq.read_table(tmp_path / "alone.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.parquet", "together"]
