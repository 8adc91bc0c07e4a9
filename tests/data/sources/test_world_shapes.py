"""The five shapes of planted worlds: what each promises, and what overrides it."""

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.data.sources.world_shapes import SHAPES, ShapeName, WorldShape
from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, refused

SMALL: dict[str, Any] = {"users": 120, "items": 150, "interactions": 2_400, "tastes": 10}


def small(folder: Path, shape: ShapeName, **changes: Any) -> Synthetic:
    return Synthetic(out=folder / "out", shape=shape, **{**SMALL, **changes})


def test_every_shape_has_its_numbers_and_options_override_them(tmp_path: Path) -> None:
    assert set(SHAPES) == set(get_args(ShapeName))
    for name, shape in SHAPES.items():
        assert Synthetic(out=tmp_path, shape=name).numbers() == shape
    assert Synthetic(out=tmp_path).numbers() == WorldShape()
    changed = Synthetic(out=tmp_path, shape="skewed", skew=0.0, users=7).numbers()
    assert (changed.skew, changed.users) == (0.0, 7)
    assert changed.category_skew == SHAPES["skewed"].category_skew


@pytest.mark.parametrize("shape", get_args(ShapeName))
def test_a_shape_makes_a_whole_dataset(tmp_path: Path, shape: ShapeName) -> None:
    rows = Prepared(small(tmp_path, shape, validation_share=0.2))
    assert rows.schema.rows_read == 2_400
    assert rows.schema.facts is not None
    assert 0 < rows.schema.facts["Bayes HR@50"] < rows.schema.facts["best HR@50"] <= 1
    assert validate(tmp_path / "out") == []


def test_each_user_of_a_sparse_world_has_five_interactions(tmp_path: Path) -> None:
    rows = Prepared(small(tmp_path, "sparse", interactions=720))
    counts = Counter(user for span in ("train", "test") for user, _, _ in rows.triples(span))
    assert min(counts.values()) == 5
    assert max(counts.values()) < 13
    few = small(tmp_path, "sparse", interactions=599, overwrite=True)
    assert refused(few) == "--interactions 599: must be at least 600 (5 for each user)"


def test_a_world_of_ids_has_no_category_and_no_order(tmp_path: Path) -> None:
    rows = Prepared(small(tmp_path, "ids", validation_share=0.25))
    assert rows.schema.histories == "others"
    assert {row["category_name"] for row in rows.items.values()} == {"(unknown)"}
    times = {
        span: {t for _, _, t in rows.triples(span)} for span in ("train", "validation", "test")
    }
    assert times == {"train": {0}, "validation": {1}, "test": {2}}
    assert 180 < len(rows.test) < 300
    assert 430 < len(rows.validation) < 650
    start = small(tmp_path, "ids", validation_from="2020-01-20", overwrite=True)
    assert refused(start).startswith("--validation-from 2020-01-20: the shape ids has no times")


def test_a_repeating_world_repeats_half(tmp_path: Path) -> None:
    """More of the log repeats a pair than without, by what fresh draws do not already repeat."""
    found = {}
    for shape in ("repeats", "plain"):
        rows = Prepared(small(tmp_path / shape, shape, items=2_000, sharpness=4.0))  # type: ignore[arg-type]
        pairs = [pair[:2] for span in ("train", "test") for pair in rows.triples(span)]
        found[shape] = 1 - len(set(pairs)) / len(pairs)
    assert found["plain"] < 0.2
    assert found["plain"] + 0.3 < found["repeats"] < found["plain"] + 0.6


def test_categories_of_a_skewed_world_are_uneven_and_equally_popular() -> None:
    world = Synthetic(out=Path(), shape="skewed").world()
    sizes = np.bincount(world.category)
    sizes = sizes[sizes > 0]
    assert sizes.max() > 30 * sizes.min()
    share = np.bincount(world.category, world.popularity)
    assert share[share > 0] == pytest.approx(1 / len(sizes), rel=1e-9)
    for category in np.unique(world.category):
        falling = np.sort(world.popularity[world.category == category])[::-1]
        assert falling * np.arange(1, len(falling) + 1) == pytest.approx(falling[0], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tastes": 0}, "--tastes 0: must lie between 1 and 120"),
        ({"tastes": 121}, "--tastes 121: must lie between 1 and 120"),
        ({"repeats": 1.5}, "--repeats 1.5: must lie between 0 and 1"),
        ({"repeats": float("nan")}, "--repeats nan: must lie between 0 and 1"),
    ],
)
def test_numbers_that_make_no_world(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert refused(small(tmp_path, "plain", **changes)) == words


def test_repeats_are_the_same_by_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 300 rows, each with the users who begin in it: nobody twice, nobody left out."""
    monkeypatch.setattr("dat_rec.data.sources.synthetic.BLOCK", 300)
    monkeypatch.setattr("dat_rec.data.sources.synthetic.FILE_BLOCKS", 1)
    logs = []
    for threads in (1, 2):
        options = small(tmp_path, "repeats", threads=threads, overwrite=True)
        rows = Prepared(options)
        logs.append(rows.triples("train") + rows.triples("test"))
    counts = np.diff(options.world().first)
    assert Counter(user for user, _, _ in logs[0]) == dict(enumerate(counts))
    assert logs[1] == logs[0]
