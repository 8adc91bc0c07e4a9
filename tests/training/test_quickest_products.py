"""Which library multiplies: measured once on a processor, and kept."""

import json
from pathlib import Path

import pytest

from dat_rec.training import quickest_products
from dat_rec.training.quickest_products import gain, quickest


def test_the_choice_is_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "new" / "products.json"
    chosen = quickest(cache)
    (key,) = json.loads(cache.read_text())
    assert json.loads(cache.read_text()) == {key: chosen}
    other = {"mkl": "onednn", "onednn": "mkl"}[chosen]
    cache.write_text(json.dumps({key: other, "another processor": chosen}))
    monkeypatch.delattr(quickest_products, "gain")
    assert quickest(cache) == other


@pytest.mark.parametrize("text", ["", "[1]", '{"k": "v"'])
def test_a_spoilt_cache_is_measured_anew(text: str, tmp_path: Path) -> None:
    cache = tmp_path / "products.json"
    cache.write_text(text)
    assert quickest(cache) in ("mkl", "onednn")
    assert len(json.loads(cache.read_text())) == 1


def test_without_a_home_it_is_measured_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has no entry in passwd."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert quickest() in ("mkl", "onednn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert quickest() in ("mkl", "onednn")
    assert list(tmp_path.iterdir()) == []


def test_where_both_are_alike_it_is_pytorchs_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ratio, expected in ((0.5, "mkl"), (1.1, "mkl"), (2.0, "onednn")):
        monkeypatch.setattr(quickest_products, "gain", lambda ratio=ratio: ratio)
        assert quickest(tmp_path / f"{ratio}.json") == expected


def test_the_gain_hardly_changes_from_one_measurement_to_the_next() -> None:
    gains = [gain() for _ in range(3)]
    assert max(gains) < 1.5 * min(gains)
