"""Draws, means, what is chosen, who sees the test; and one whole study, killed and resumed."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from benchmarks.quality import records, tables
from benchmarks.quality.arms import ARMS, DEFAULTS, Setting, draw
from benchmarks.quality.data import StudyData, open_data
from benchmarks.quality.looks import look, looks, refuse_second_look
from benchmarks.quality.means import difference, mean
from benchmarks.quality.search import Plan
from benchmarks.quality.trial import Judged, Trial, chosen
from dat_rec.config import TrainConfig
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.defaults import USER_DROPOUT, defaults
from dat_rec.errors import UserError

LIMIT_S = 600
JUDGED = Judged(
    stop_by="new_pairs/HR@50",
    patience=3,
    validation_queries=0,
    blend_history=False,
    device="cpu",
    threads=1,
    code="c0de",
    command="",
)


def five(_: bool) -> int:
    return 5


def a_trial(folder: Path, **more: Any) -> Trial:
    data = StudyData(folder, "tuning", "whole")
    usual = {"stage": "test", "arm": "DAT", "setting": {"epochs": 2}, "seed": 0, "epoch_steps": 10}
    return Trial(data=data, judged=JUDGED, **(usual | more))


def drawn(arm: str) -> list[Setting]:
    return [draw(arm, number, 0, five, {"model.pooling": "sqrt"}) for number in range(40)]


@pytest.mark.parametrize("arm", ARMS)
def test_every_draw_can_be_trained(arm: str, tmp_path: Path) -> None:
    for setting in drawn(arm):
        assert 1 <= setting["epochs"] <= 5
        config = a_trial(tmp_path, arm=arm, setting=json.loads(json.dumps(setting))).config(
            tmp_path
        )
        assert config.epochs == setting["epochs"]
        for name, value in setting.items():
            group, _, inner = name.rpartition(".")
            assert getattr(getattr(config, group) if group else config, inner) == value
        for name, part in (("mimic_user", "mimic"), ("alignment", "alignment")):
            has = arm == "DAT" or part in arm
            assert (getattr(config.loss, name) > 0) == has
        assert config.model.augment == (arm != "two-tower")


def test_arms_share_their_draws_and_begin_with_the_defaults() -> None:
    ours, theirs = drawn("two-tower"), drawn("DAT")
    assert ours == drawn("two-tower")
    assert ours[0] == theirs[0] == {"epochs": 4, "model.pooling": "sqrt"}
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert mine.items() <= other.items()
    assert len({json.dumps(setting) for setting in ours}) == 40
    assert {setting["epochs"] for setting in ours} == {1, 2, 3, 4, 5}
    rates = np.log10([setting["optimizer.tower_lr"] for setting in ours[1:]])
    assert np.percentile(rates, [0, 100]) == pytest.approx(np.log10([3e-4, 1e-2]), abs=0.2)


def test_a_mean_has_students_interval() -> None:
    value, half, seeds = mean([0.1, 0.2, 0.3])
    assert (value, seeds) == (pytest.approx(0.2), 3)
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert mean([0.5]).half_width is None


def test_a_difference_is_paired_by_seed() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8)
    ours = {seed: 1.0 + noise[seed] for seed in range(6)}
    theirs = {seed: 0.9 + noise[seed] + 0.01 * seed**2 for seed in (5, 4, 3, 2, 1, 7)}
    found = difference(ours, theirs)
    assert found is not None
    common = [1, 2, 3, 4, 5]
    judge = stats.ttest_rel([ours[s] for s in common], [theirs[s] for s in common])
    assert found.p == pytest.approx(judge.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(judge.confidence_interval(0.95)))
    rule = difference({0: 0.5, 1: 0.7}, 0.4)
    assert rule is not None
    assert rule.value == pytest.approx(0.2)
    assert difference({0: 0.5}, {1: 0.5}) is None
    same = difference({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6})
    assert same is not None
    assert (same.value, same.p) == (0.0, None)


@pytest.mark.parametrize(("decay", "score", "epochs"), [("none", 0.5, 2), ("linear", 0.4, 3)])
def test_what_counts_is_what_training_without_validation_comes_to(
    decay: Any, score: float, epochs: int, tmp_path: Path
) -> None:
    usual = TrainConfig(tmp_path, tmp_path)
    config = replace(usual, optimizer=replace(usual.optimizer, decay=decay))
    values = ((10, 0.3), (20, 0.5), (30, 0.4))
    history = [
        {"step": step, "value": value, "all": {"HR@50": value / 2}} for step, value in values
    ]
    found = chosen(config, history, 9.8)
    assert (found["score"], found["chosen_epochs"]) == (score, epochs)
    assert found["validation/all/HR@50"] == score / 2
    assert json.loads(found["validations"]) == [list(one) for one in values]


def test_a_second_look_at_the_test_is_refused_and_the_same_one_counted(tmp_path: Path) -> None:
    first = a_trial(tmp_path)
    refuse_second_look(first)
    assert [look(first), look(first)] == [1, 2]
    refuse_second_look(first)
    refuse_second_look(replace(first, seed=1))
    refuse_second_look(replace(first, arm="two-tower"))
    with pytest.raises(UserError, match="with another setting: choose on validation"):
        refuse_second_look(replace(first, setting={"epochs": 3}))
    with pytest.raises(UserError, match="with another code"):
        refuse_second_look(replace(first, judged=replace(JUDGED, code="new")))
    assert len(looks(tmp_path)) == 2


def test_a_files_rows_are_read_as_written_and_rubbish_is_refused(tmp_path: Path) -> None:
    row = {"id": "a", "arm": "DAT", "seed": 3, "test/all/MRR": 0.25}
    records.write(tmp_path / "a.parquet", [row])
    (found,) = records.read(tmp_path)
    assert row.items() <= found.items()
    assert found.keys() == set(records.SCHEMA.names)
    assert found["score"] is None
    older = pa.table({"id": ["b"], "stage": ["test"], "arm": ["DAT"]})
    pq.write_table(older, tmp_path / "b.parquet")
    assert records.read(tmp_path)[1]["test/blend/MRR"] is None
    pq.write_table(pa.table({"id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="holds no trials"):
        records.read(tmp_path)
    with pytest.raises(ValueError, match="no such column"):
        records.write(tmp_path / "b.parquet", [{"x": 1}])
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="holds no trials"):
        records.read(tmp_path)
    assert records.read(tmp_path / "absent") == []


def test_the_best_trial_of_an_arm_is_tested_and_its_epochs_with_it(tmp_path: Path) -> None:
    plan = Plan(
        data=(StudyData(tmp_path, "tuning", "whole"),),
        arms=(DEFAULTS, "two-tower"),
        trials=3,
        steps=100,
        batch_size=64,
        seeds=(4, 5),
        search_seed=0,
        judged=JUDGED,
    )
    steps: Callable[..., int] = lambda *_, **__: 10  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyData, "epoch_steps", steps)
        patch.setattr(StudyData, "usual", lambda *_: {})
        patch.setattr(StudyData, "batch_size", 64)
        trials = plan.search()
        assert [(one.arm, one.number) for one in trials] == [("two-tower", n) for n in range(3)]
        scores = (0.1, 0.3, None)
        rows = [
            trial.facts | {"id": trial.id, "score": score, "chosen_epochs": 7, "failure": "why"}
            for trial, score in zip(trials, scores, strict=True)
        ]
        with pytest.raises(UserError, match="no trial of two-tower has a score: why"):
            plan.tests(rows[2:])
        tests = plan.tests(rows)
        assert [(one.arm, one.seed) for one in tests] == [
            (DEFAULTS, 4),
            (DEFAULTS, 5),
            ("two-tower", 4),
            ("two-tower", 5),
        ]
        assert tests[0].setting == {}
        best = json.loads(json.dumps(trials[1].setting | {"epochs": 7}))
        assert tests[2].setting == best
        swept = plan.sweep(rows, ["two-tower"], [8, 16])
        assert [one.config(tmp_path).model.output_dim for one in swept] == [8, 8, 16, 16]
        assert {one.dataset.name for one in swept} == {"tuning"}
        assert {one.dataset.name for one in tests} == {"whole"}
        few = replace(plan, steps=9)
        with pytest.raises(UserError, match=r"--steps 9: an epoch of .* has 10 steps"):
            few.search()


def test_tables_have_means_differences_and_the_newest_of_two() -> None:
    def row(arm: str, seed: int | None, value: float, date: str = "1") -> dict[str, Any]:
        blank = dict.fromkeys(records.SCHEMA.names)
        figures = {name: value for name in blank if name.startswith("test/")}
        stage = "baselines" if seed is None else "test"
        facts = {"data": "log", "stage": stage, "arm": arm, "seed": seed, "date": date}
        return blank | facts | figures

    rows = [row("two-tower", seed, 0.25 + seed / 100) for seed in (0, 1)]
    rows += [row("DAT", seed, 0.5 + seed / 100) for seed in (0, 1)]
    rows += [row("DAT", 0, 0.75, date="0"), row("iALS", None, 0.125)]
    blank = dict.fromkeys(records.SCHEMA.names) | {"data": "log", "stage": "search"}
    setting = {"setting": "{}", "chosen_epochs": 2}
    rows += [
        blank | setting | {"arm": arm, "score": score}
        for arm, score in (("DAT", 0.4), ("two-tower", 0.5), ("DAT", None))
    ]
    lines = tables.text(rows).splitlines()
    assert "| DAT | 2 | 1 | .4000 | epochs 2 |" in lines
    half = 12.7062 * 0.01 / 2  # t(.975, 1), and a standard deviation of .01 / √2
    assert f"| DAT | 2 | .5050 ± {half:.4f}"[1:].replace("0.", ".") in "\n".join(lines)
    assert any(line.startswith("| **two-tower** (best) | 2 | .2550 ± ") for line in lines)
    assert any(line.startswith("| iALS |  | .1250 | ") for line in lines)
    assert any(line.startswith("| DAT − two-tower | +.2500 [+.2500, +.2500] | ") for line in lines)
    assert any(line.startswith("| two-tower − iALS | +.1300 [+") for line in lines)


def test_figures_have_four_digits_and_no_zero_before_the_point() -> None:
    assert [tables.short(value) for value in (0.5, 1.0, 10.25)] == [".5000", "1.0000", "10.2500"]
    assert [tables.short(value, signed=True) for value in (0.5, -0.5)] == ["+.5000", "-.5000"]


def test_datasets_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    world = {"users": 30, "items": 20, "interactions": 600, "categories": 3}
    for name, more in (("a/tuning", {"validation_share": 0.2}), ("a/whole", {}), ("b/whole", {})):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        own = {"world_seed": int(name[0] == "b")}
        prepare(Synthetic(out=tmp_path / name, **world, **own, **more))  # type: ignore[arg-type]
    found = open_data(tmp_path / "a")
    examples = found.epoch_steps(1, skip_repeats=False)
    assert examples > found.epoch_steps(1, skip_repeats=True) > 0
    assert found.epoch_steps(examples - 1, skip_repeats=False) == 2
    assert found.tuning != found.whole
    assert found.batch_size == 128  # of few examples
    # Histories are not full, and the world has categories beside ids.
    usual = found.usual("modern")
    assert usual == {
        "batch_size": 128,
        "model.pooling": "sqrt",
        "examples.user_dropout": USER_DROPOUT,
    }
    plan = Plan(
        data=(found,),
        arms=("DAT",),
        trials=1,
        steps=1000,
        batch_size=0,
        seeds=(0,),
        search_seed=0,
        judged=JUDGED,
    )
    (first,) = plan.search()
    expected = defaults("modern", first.dataset, tmp_path)
    config = first.config(tmp_path)
    assert (config.model, config.loss, config.batch_size, config.epochs) == (
        expected.model,
        expected.loss,
        expected.batch_size,
        expected.epochs,
    )
    b = tmp_path / "b"
    with pytest.raises(UserError, match="b: has no folder 'tuning': dat-rec prepare"):
        open_data(b)
    (b / "tuning").symlink_to(tmp_path / "b" / "whole")
    with pytest.raises(UserError, match="has no validation span to choose on"):
        open_data(b)
    (b / "tuning").unlink()
    (b / "tuning").symlink_to(tmp_path / "a" / "tuning")
    with pytest.raises(UserError, match="tuning and whole have different tests"):
        open_data(b)


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.quality", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    flags = ("--smoke", "--device", "cpu", "--out", tmp_path)
    study, trials = start(*flags), tmp_path / "trials"
    deadline = time.monotonic() + LIMIT_S
    while not (done := list(trials.glob("*.parquet"))) and time.monotonic() < deadline:
        assert study.poll() is None
        time.sleep(0.05)
    study.kill()
    study.communicate()
    kept = {path: path.stat().st_mtime_ns for path in done}
    assert len(kept) < 9
    for path in (tmp_path / "runs").glob("*"):
        # Its process ends with the study's: the run's folder is named after it.
        pid = int(path.name.rpartition("-")[2])
        while time.monotonic() < deadline and is_alive(pid):
            time.sleep(0.05)
        assert not is_alive(pid)

    study = start(*flags, "--parallel", "2")
    printed, told = study.communicate(timeout=LIMIT_S)
    assert study.returncode == 0, told
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    rows = records.read(tmp_path / "trials.parquet")
    assert len(rows) == len({(row["id"], row["arm"]) for row in rows}) == 4 + 4 + 4
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    for row in rows:
        searched = row["stage"] == "search"
        assert (row["score"] is not None) == searched
        assert (row["validation/new_pairs/HR@50"] is not None) == searched
        assert (row["test/new_pairs/HR@50"] is None) == searched
        assert row["hardware"]
        assert row["torch"]
        assert row["seconds"] > 0
        if row["stage"] == "test":
            assert row["test_read"] == 1
            assert 0 < row["test/others/HR@100"] <= 1
            assert 0 < row["test/blend/HR@100"] <= 1
    assert "| DAT − two-tower | " in printed
    assert "with each user's own history blended in" in printed
    assert len(looks(tmp_path / "world")) == 4

    again = start("--table", tmp_path / "trials.parquet")
    assert again.communicate(timeout=LIMIT_S)[0] == printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--data: name one folder or more"),
        (("--arms", "x"), "--arms 'x': no such arm: one of defaults, two-tower, "),
        (("--parallel", "0"), "must be 1 or more"),
        (("--table", "absent"), "--table absent: holds no trials"),
        (("--data", "absent"), "absent: has no folder 'tuning'"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks.quality.__main__ import main

    flags = flags if flags[:1] in ((), ("--data",)) else ("--data", "d", *flags)
    monkeypatch.setattr(sys, "argv", ["quality", "--out", str(tmp_path), *flags])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1
