"""The order of the examples, and where files cut it, against a plain sort."""

import numpy as np
import pytest

from dat_rec.data.prepare.shuffle import file_cuts, file_of, shuffle_keys


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 640, 5_001])
@pytest.mark.parametrize("seed", [0, 1, 2**64 + 3, -1])
def test_files_cut_the_sorted_keys_at_their_size(
    rows: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dat_rec.data.prepare.shuffle.AT_ONCE", 100)
    keys = shuffle_keys(np.arange(rows), seed)
    assert len(set(keys.tolist())) == rows
    cuts = file_cuts(rows, seed, 64)
    files = file_of(keys, cuts)
    wanted = np.empty(rows, np.int64)
    wanted[np.argsort(keys)] = np.arange(rows) // 64
    assert files.tolist() == wanted.tolist()


def test_a_key_depends_on_seed_and_row_alone() -> None:
    keys = shuffle_keys(np.arange(1_000), 5)
    assert shuffle_keys(np.array([7, 999]), 5).tolist() == keys[[7, 999]].tolist()
    assert set(shuffle_keys(np.arange(1_000), 6).tolist()).isdisjoint(keys.tolist())


def test_neighbours_fall_far_apart() -> None:
    """The places of 100,000 rows in order: no correlation, and each tenth has its share."""
    places = np.argsort(np.argsort(shuffle_keys(np.arange(100_000), 0)))
    assert abs(np.corrcoef(np.arange(100_000), places)[0, 1]) < 0.02
    tenths = np.bincount(places[:10_000] // 10_000, minlength=10)
    assert tenths.min() > 850
    assert tenths.max() < 1_150
