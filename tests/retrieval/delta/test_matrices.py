"""Differences of matrices, block by block, against bytes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.errors import UserError
from dat_rec.retrieval.delta import matrices as module
from dat_rec.retrieval.delta.matrices import (
    alike_rows,
    new_blocks,
    rows_of,
    width_of,
    write_matrix_difference,
)
from dat_rec.retrieval.delta.rows import CHANGED, NONE, ORDER


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 16)


def two_days(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A table whose rows are shuffled; some change, some go, some come; some stand twice."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(100, 5)).astype(np.float32)
    base[7] = base[50]
    base[20] = 0.0
    new = base[rng.permutation(100)[:80]]
    new[rng.random(80) < 0.1] += 1e-7
    new = np.concatenate([new, rng.normal(size=(20, 5)).astype(np.float32)])
    new[3] = -0.0
    new[4] = np.nan
    return base, new


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_moved_are_found_by_what_they_hold(tmp_path: Path, seed: int) -> None:
    base, new = two_days(seed)
    write_matrix_difference(tmp_path / "delta", new, base, alike_rows(new, base), "row")
    there = {row.tobytes() for row in base}
    changed = pq.read_table(tmp_path / "delta" / CHANGED)["row"].to_pylist()
    expected = [row for row in new if row.tobytes() not in there]
    assert len(expected) < 50
    np.testing.assert_array_equal(np.array(changed, np.float32), np.array(expected))
    made = np.concatenate(list(new_blocks(tmp_path / "delta", base, "row")))
    assert made.tobytes() == new.tobytes()
    assert (rows_of(tmp_path / "delta"), width_of(tmp_path / "delta", "row")) == (100, 5)


def test_a_row_that_stayed_is_taken_from_where_it_was() -> None:
    base = np.zeros((6, 2), np.float32)
    assert alike_rows(base[:4], base).tolist() == [0, 1, 2, 3]
    assert alike_rows(base + 1, base).tolist() == [NONE] * 6
    assert alike_rows(base, base[:0]).tolist() == [NONE] * 6


def test_by_id_a_row_is_compared_with_that_of_the_same_id(tmp_path: Path) -> None:
    base, new = two_days(9)
    ids = pa.chunked_array([[f"i{number}" for number in range(100)]])
    rows = np.where(np.arange(100) % 3 == 0, np.arange(100), NONE)
    new[:90:3] = base[:90:3]
    write_matrix_difference(tmp_path / "delta", new, base, rows, "vector", ids)
    table = pq.read_table(tmp_path / "delta" / CHANGED)
    expected = [n for n in range(100) if n % 3 or base[n].tobytes() != new[n].tobytes()]
    assert table["item_id"].to_pylist() == [f"i{number}" for number in expected]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), new[expected])
    made = np.concatenate(list(new_blocks(tmp_path / "delta", base, "vector")))
    assert made.tobytes() == new.tobytes()


def test_another_width_is_given_anew_and_no_rows_are_some(tmp_path: Path) -> None:
    base, new = two_days(1)
    wide = np.repeat(new, 2, axis=1)
    for number, matrix in enumerate((wide, new[:0])):
        folder = tmp_path / str(number)
        write_matrix_difference(folder, matrix, base, alike_rows(matrix, base), "row")
        made = np.concatenate(list(new_blocks(folder, base, "row")))
        assert made.shape == matrix.shape
        assert made.tobytes() == matrix.tobytes()


def test_an_order_of_another_matrix_is_refused(tmp_path: Path) -> None:
    base, new = two_days(2)
    write_matrix_difference(tmp_path / "a", new, base, alike_rows(new, base), "row")
    write_matrix_difference(tmp_path / "b", new[:20], base, alike_rows(new[:20], base), "row")
    (tmp_path / "b" / ORDER).replace(tmp_path / "a" / ORDER)
    with pytest.raises(UserError, match=r"order\.parquet: does not fit changed\.parquet"):
        list(new_blocks(tmp_path / "a", base, "row"))
    write_matrix_difference(tmp_path / "c", new, base, alike_rows(new, base), "row")
    with pytest.raises(UserError, match="names rows that the base lacks"):
        list(new_blocks(tmp_path / "c", base[:1], "row"))
