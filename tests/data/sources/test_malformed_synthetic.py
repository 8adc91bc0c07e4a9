"""Options of the planted world that make no world: refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.prepare import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.errors import UserError


def refusal(folder: Path, **changes: Any) -> str:
    options = {"users": 20, "items": 10, "interactions": 200, "categories": 2, **changes}
    with pytest.raises(UserError) as error:
        prepare(Synthetic(out=folder / "out", **options))
    assert list(folder.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize("name", ["sharpness", "skew"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e6])
def test_weights_that_are_none_are_refused(tmp_path: Path, name: str, value: float) -> None:
    most = {"sharpness": 1000, "skew": 10}[name]
    message = refusal(tmp_path, **{name: value})
    assert message == f"--{name} {value}: must lie between 0 and {most}"


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_beyond_63_bits_is_refused(tmp_path: Path, seed: int) -> None:
    message = refusal(tmp_path, world_seed=seed)
    assert message == f"--world-seed {seed}: must lie between 0 and 2^63 − 1"


def test_the_extremes_make_a_world(tmp_path: Path) -> None:
    options = {"users": 20, "items": 10, "interactions": 200, "categories": 2}
    for number, extreme in enumerate(
        ({"sharpness": 1000.0}, {"skew": 10.0}, {"world_seed": 2**63 - 1}, {"skew": 0.0})
    ):
        schema = prepare(Synthetic(out=tmp_path / str(number), **{**options, **extreme}))
        assert schema.facts is not None
        assert all(0 <= hit <= 1 + 1e-9 for hit in schema.facts.values())


def test_a_world_too_small_for_a_test_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, users=1, items=2, interactions=2, categories=1)
    assert message.startswith("no interaction is held out to test on")
