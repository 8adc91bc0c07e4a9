"""Item embeddings to begin with: those of a dense singular value decomposition, on all ranks."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import write_json
from dat_rec.training import item_factors as module
from dat_rec.training.item_factors import item_factors
from tests.checkpoint.saved import saved_tensors
from tests.end_to_end.cli import done
from tests.end_to_end.forked import on_ranks
from tests.retrieval.world import write_dataset

DIM = 5


def dense(dataset: Dataset) -> NDArray[np.float64]:
    """What the module says, of the whole matrix at once."""
    seen = pq.read_table(dataset.folder / "seen.parquet")
    pairs = np.zeros((dataset.schema.users, dataset.schema.trained_items))
    pairs[seen["user_row"].to_numpy(), seen["item_index"].to_numpy()] = 1
    users, items = (np.maximum(pairs.sum(axis), 1) for axis in (1, 0))
    _, values, vectors = np.linalg.svd(pairs / np.sqrt(users)[:, None] / np.sqrt(items))
    assert values[0] == pytest.approx(1)
    found: NDArray[np.float64] = vectors[1 : 1 + DIM].T * values[1 : 1 + DIM] ** 0.5
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_factors_are_those_of_the_whole_matrix(
    planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the vectors' signs, which no decomposition decides."""
    monkeypatch.setattr(module, "STEPS", 60)
    found, expected = item_factors(planted, DIM, 0), dense(planted)
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


@pytest.mark.parametrize("block", [3, 1000])
def test_a_user_may_lie_in_several_blocks(
    planted: Dataset, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = item_factors(planted, DIM, 0)
    monkeypatch.setattr(module, "PAIRS", block)
    found = item_factors(planted, DIM, 0)
    np.testing.assert_allclose(found @ found.T, at_once @ at_once.T, atol=1e-3)


def test_columns_beyond_the_rank_are_0(planted: Dataset) -> None:
    items = planted.schema.trained_items
    found = item_factors(planted, items + 4, 0)
    assert found.shape == (items, items + 4)
    assert not found[:, items - 1 :].any()
    assert np.isfinite(found).all()


def test_noise_is_no_direction(tmp_path: Path) -> None:
    """Of one user's items nothing is known but that they are the user's."""
    dataset = Dataset.open(write_dataset(tmp_path / "data"))
    items = np.arange(dataset.schema.trained_items, dtype=np.int32)
    pq.write_table(
        pa.table({"user_row": np.zeros_like(items), "item_index": items}),
        tmp_path / "data" / "seen.parquet",
    )
    assert not item_factors(dataset, 4, 0).any()


def test_pairs_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    dataset = Dataset.open(folder)
    (folder / "seen.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"seen\.parquet: cannot be read \(.*\): prepare the"):
        item_factors(dataset, 4, 0)
    write_json(folder / "seen.parquet", {})
    with pytest.raises(UserError, match="cannot be read"):
        item_factors(dataset, 4, 0)


FLAGS = (
    *("--epochs", "1", "--batch-size", "4000", "--optimizer.table-lr", "0"),
    *("--model.embedding-dim", "8", "--model.hidden", "8", "--model.output-dim", "8"),
)


@pytest.mark.parametrize(
    ("ranks", "pins"),
    [(1, ()), (2, ("item=column_wise,min_partition:4",)), (2, ("item=row_wise",))],
)
def test_the_item_table_begins_with_them_under_every_plan(
    planted: Dataset, tmp_path: Path, ranks: int, pins: tuple[str, ...]
) -> None:
    more = ("--pin", *pins) if pins else ()
    tables = {}
    for start in ("svd", "random"):
        out = tmp_path / start
        flags = ("--optimizer.table-start", start, *FLAGS, *more)
        done(on_ranks(ranks, "train", "--data", planted.folder, "--out", out, *flags))
        tables[start] = saved_tensors(checkpoints(out)[-1][1])
    name = "tables/dat.embeddings.item/weight"
    table = tables["svd"][name].numpy()
    rows = planted.item_columns()["item"].values[: planted.schema.trained_items]
    np.testing.assert_array_equal(table[rows], item_factors(planted, 8, 0))
    others = np.setdiff1d(np.arange(len(table)), rows)
    assert 0 in others
    np.testing.assert_array_equal(table[others], tables["random"][name].numpy()[others])
    user = "tables/dat.embeddings.user/weight"
    assert (tables["svd"][user] == tables["random"][user]).all()
