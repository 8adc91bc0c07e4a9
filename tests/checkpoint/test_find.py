"""Which checkpoint `--checkpoint` means."""

from pathlib import Path

import pytest

from dat_rec.checkpoint.find import chosen_whole
from dat_rec.errors import UserError
from dat_rec.files import sha256, write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four checkpoints; the lowest loss stands twice."""
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.25), (40, 0.75)):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        write_json(folder / "checkpoint.json", {"step": step, "loss": loss})
        digests = {"checkpoint.json": sha256(folder / "checkpoint.json")}
        write_json(folder / "sha256.json", digests)
    return tmp_path


def step_of(run: Path, wanted: str) -> int:
    found = chosen_whole(run, wanted)
    assert found is not None
    assert found.folder.name == f"step-{found.step:08d}"
    return found.step


def damage(run: Path, step: int) -> None:
    path = run / "checkpoints" / f"step-{step:08d}" / "checkpoint.json"
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize(
    ("wanted", "step"),
    [("newest", 40), ("best", 30), ("10", 10), ("40", 40), ("step-00000020", 20)],
)
def test_a_checkpoint_is_known_by_its_step_or_as_best_or_newest(
    run: Path, wanted: str, step: int
) -> None:
    assert step_of(run, wanted) == step


@pytest.mark.parametrize("wanted", ["15", "oldest", "", "-10", "010"])
def test_what_is_not_there_is_refused_with_what_is(run: Path, wanted: str) -> None:
    with pytest.raises(UserError, match=r"is there \(10, 20, 30, 40\), best or newest") as error:
        chosen_whole(run, wanted)
    assert repr(wanted) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_one_is_passed_over_aloud_unless_it_was_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run, 30)
    assert step_of(run, "best") == 20
    assert "step-00000030: damaged" in capsys.readouterr().err
    damage(run, 40)
    assert step_of(run, "newest") == 20
    with pytest.raises(UserError, match=r"step-00000030: damaged .*: name another checkpoint"):
        chosen_whole(run, "30")


def test_no_checkpoint_is_best_where_none_says_its_loss(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        write_json(folder / "checkpoint.json", {"step": 1})
        write_json(folder / "sha256.json", {"checkpoint.json": sha256(folder / "checkpoint.json")})
    with pytest.raises(UserError, match="no whole checkpoint says how good it is: name one"):
        chosen_whole(run, "best")


def test_the_best_is_the_first_of_the_highest_that_was_validated(run: Path) -> None:
    """Whatever the losses say; one between validations counts for less than any of them."""
    for step, value in ((10, 0.1), (20, 0.3), (30, None), (40, 0.3)):
        folder = run / "checkpoints" / f"step-{step:08d}"
        facts = {"step": step, "loss": 5.0 - step / 10, "validation": {"value": value}}
        write_json(folder / "checkpoint.json", facts)
        write_json(folder / "sha256.json", {"checkpoint.json": sha256(folder / "checkpoint.json")})
    assert step_of(run, "best") == 20
    damage(run, 20)
    assert step_of(run, "best") == 40
    damage(run, 40)
    assert step_of(run, "best") == 10


def test_before_the_first_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert [chosen_whole(tmp_path, wanted) for wanted in ("newest", "best", "3")] == [None] * 3
