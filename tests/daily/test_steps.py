"""A day's commands."""

from pathlib import Path

import pytest

from dat_rec.daily.root import Day
from dat_rec.daily.steps import Asked, steps_of

TODAY, BEFORE = (Day(Path("/days"), f"day={day}") for day in (2, 1))


@pytest.mark.parametrize("rule", [("--forget-after", "90"), ("--forget_after=90",)])
def test_only_the_dataset_that_is_trained_on_forgets(rule: tuple[str, ...]) -> None:
    asked = Asked(("--interactions", "log", *rule, "--time", "when", "--capacity", "9"), ())
    steps = {step.name: step.words for step in steps_of(TODAY, BEFORE, asked)}
    log = ("prepare", "parquet", "--interactions", "log", "--time", "when", "--to", "day=2")
    after = ("--from", "day=2", "--after", "/days/1/data")
    assert steps["score"] == (*log, *after, "--split", "all", "--out", "/days/2/score")
    forgetting = (*rule, "--capacity", "9")
    train = ("--split", "none", "--out", "/days/2/data")
    assert steps["prepare"] == (*log, *after, *forgetting, *train)
    first = {step.name: step.words for step in steps_of(TODAY, None, asked)}
    assert list(first) == ["prepare", "train", "export"]
    assert first["prepare"] == (*log, *train)


def test_without_exports_a_day_ends_with_its_training() -> None:
    asked = Asked((), ("--epochs", "3"), export=False)
    steps = steps_of(TODAY, BEFORE, asked)
    assert [step.name for step in steps] == ["score", "evaluate", "prepare", "train"]
    assert steps[-1].words[-4:] == ("--epochs", "3", "--warm-start", "/days/1/run")


def test_a_delta_is_since_the_export_before_where_there_is_one(tmp_path: Path) -> None:
    today, before = (Day(tmp_path, f"{day}") for day in (2, 1))
    asked = Asked((), (), deltas=True)
    assert [step.name for step in steps_of(today, before, asked)][-1] == "export"
    before.export.mkdir(parents=True)
    (before.export / "export.json").touch()
    export, apply = steps_of(today, before, asked)[-2:]
    base, delta = f"{before.export}", f"{today.delta}"
    assert export.words[-4:] == ("--since", base, "--out", delta)
    assert export.whole == today.delta / "delta.json"
    assert apply.words == ("apply", "--base", base, "--delta", delta, "--out", f"{today.export}")
    assert apply.whole == today.export / "export.json"
