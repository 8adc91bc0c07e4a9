"""Validation during training: evaluate's figures, and a training that does not notice it."""

import errno
import json
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.config import ModelConfig, TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.errors import SharedError
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.runs.status import status
from dat_rec.runs.validations import figures_of, read_validations
from dat_rec.training import validation as validation_module
from dat_rec.training.train import train
from dat_rec.training.validation import validation_queries
from tests.checkpoint.saved import facts, saved_digests
from tests.end_to_end.cli import done
from tests.end_to_end.forked import _main, forked, on_ranks

METRIC = "all/MRR"
FLAGS = (
    *("--epochs", "12", "--batch-size", "512", "--log-every", "5", "--checkpoint-every", "7"),
    *("--model.embedding-dim", "8", "--model.hidden", "8", "--model.output-dim", "8"),
    *("--optimizer.table-lr", "0.15", "--optimizer.tower-lr", "0.01"),
    # With these the metric rises, and then falls.
    *("--optimizer.warmup-steps", "10", "--loss.unknown-count", "one"),
    *("--keep-checkpoints", "100"),
)
MOST = 300
VALIDATE = ("--validate-every", "5", "--validation-queries", str(MOST), "--stop-by", METRIC)
PATIENCE = ("--patience", "2")
EVERY_TYPE = (
    *("--pin", "item=column_wise,min_partition:4", "user=row_wise", "category=data_parallel"),
    "augmented_*=table_wise",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validated") / "data"
    sizes = {"users": 300, "items": 200, "interactions": 5_000, "categories": 5}
    prepare(Synthetic(out=folder, validation_share=0.2, **sizes))
    return folder


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank that was ended by its validations."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    done(forked("train", "--data", data, "--out", out, *FLAGS, *VALIDATE, *PATIENCE))
    return out


def as_test(data: Path, folder: Path) -> Path:
    """The dataset with the validation's queries in place of the test's."""
    shutil.copytree(data, folder)
    table = pq.read_table(folder / "validation.parquet")
    chosen = set(sampled(data))
    table = table.filter([user in chosen for user in table["user_row"].to_pylist()])
    pq.write_table(table, folder / "test.parquet")
    replace(Schema.load(folder), tests=table.num_rows).save(folder)
    return folder


def sampled(data: Path) -> list[int]:
    """The users whose queries are asked, by hand: those who are drawn first, as many as go in."""
    users = pq.read_table(data / "validation.parquet")["user_row"].to_pylist()
    drawn = np.random.default_rng(0).permutation(len(set(users)))
    names, chosen, queries = sorted(set(users)), [], 0
    for number in drawn:
        queries += users.count(names[number])
        if queries > MOST:
            return chosen
        chosen.append(names[number])
    raise AssertionError("all users go in: the sample is none")


def records(run: Path) -> list[dict[str, Any]]:
    found = read_validations(run)
    return [{name: one[name] for name in one if name != "seconds"} for one in found]


def test_the_figures_are_those_of_evaluate(data: Path, stopped: Path, tmp_path: Path) -> None:
    """To the last bit, of the checkpoints that were written at the same steps."""
    other = as_test(data, tmp_path / "data")
    found = {record["step"]: record for record in records(stopped)}
    common = [step for step, _ in checkpoints(stopped) if step in found]
    assert len(common) >= 3
    for step in common[:1] + common[-2:]:
        expected = figures_of(evaluate(stopped, other, str(step), fitted_baselines=False))
        assert {name: found[step][name] for name in expected} == expected


def test_the_run_ends_where_the_metric_no_longer_rises(stopped: Path) -> None:
    found = records(stopped)
    values = [record["all"]["MRR"] for record in found]
    assert [record["step"] for record in found] == [5 * (n + 1) for n in range(len(found))]
    first = values.index(max(values))
    assert len(values) == first + 3
    summary = json.loads((stopped / "train.json").read_text())
    assert (
        summary["steps"]
        == found[-1]["step"]
        < json.loads((stopped / "config.json").read_text())["steps"]
    )
    told = summary["validation"]
    assert told["queries"] == found[0]["all"]["queries"] + found[0]["cold"]["queries"] <= MOST
    assert (told["best"], told["best_step"]) == (max(values), 5 * (first + 1))
    assert told["stopped_early"].startswith("all/MRR has not risen in 2 validations: best 0.")
    steps = [step for step, _ in checkpoints(stopped)]
    assert steps[-1] == summary["steps"]
    # Each best one was saved when it was found.
    rises = [place for place, value in enumerate(values) if value > max(values[:place], default=0)]
    assert {5 * (place + 1) for place in rises} <= set(steps)
    text = status(stopped).text()
    assert "stopped early" in text
    assert text.endswith("--checkpoint best")
    best = evaluate(stopped, checkpoint="best", fitted_baselines=False)
    assert best["checkpoint"] == told["best_step"]


def test_the_curves_show_every_validation(stopped: Path) -> None:
    events = EventAccumulator(str(stopped / "tensorboard")).Reload()
    for block, name in (("new_pairs", "HR@50"), ("per_user", "Recall@20")):
        curve = [(one.step, one.value) for one in events.Scalars(f"validation/{block}/{name}")]
        wanted = [(one["step"], one[block][name]) for one in records(stopped)]
        assert curve == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]


def test_training_does_not_notice_on_one_rank(data: Path, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done(forked("train", "--data", data, "--out", out, *FLAGS))
    assert_same_steps(stopped, out)


def assert_same_steps(validated: Path, plain: Path) -> None:
    """The checkpoints of the same steps are the same, and the loss that goes on is."""
    steps = sorted(set(dict(checkpoints(validated))) & set(dict(checkpoints(plain))))
    assert len(steps) >= 2
    for step in (steps[0], steps[-1]):
        ours, theirs = (dict(checkpoints(run))[step] for run in (validated, plain))
        assert saved_digests(ours) == saved_digests(theirs)
        assert facts(ours)["loss_sums"] == facts(theirs)["loss_sums"]


def test_training_does_not_notice_on_two_ranks_under_any_plan(data: Path, tmp_path: Path) -> None:
    short = (*FLAGS, "--epochs", "2", *EVERY_TYPE)
    runs = {}
    for name, more in (("validated", VALIDATE), ("plain", ())):
        runs[name] = tmp_path / name
        done(on_ranks(2, "train", "--data", data, "--out", runs[name], *short, *more))
    assert_same_steps(runs["validated"], runs["plain"])
    last = checkpoints(runs["validated"])[-1][0]
    found = records(runs["validated"])
    # One more at the end, which is none of the fives.
    assert found[-1]["step"] == last
    assert last % 5
    other = as_test(data, tmp_path / "data")
    expected = figures_of(evaluate(runs["validated"], other, fitted_baselines=False))
    assert {name: found[-1][name] for name in expected} == expected


class Noisy(nn.Module):
    """A tower that draws random numbers where it is made, and in each step of training."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_dim, output_dim)

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.layer(F.dropout(features, 0.5, self.training))
        return outputs


def test_random_numbers_of_a_tower_are_those_of_a_run_without(data: Path, tmp_path: Path) -> None:
    last = []
    for every in (0, 2):
        config = TrainConfig(
            data=data,
            out=tmp_path / str(every),
            epochs=1,
            batch_size=512,
            validate_every=every,
            device="cpu",
            model=ModelConfig(embedding_dim=8, hidden=(8,), output_dim=8),
        )
        train(config, tower=Noisy)
        last.append(saved_digests(checkpoints(config.out)[-1][1]))
    assert last[0] == last[1]


def test_a_run_killed_between_validations_stops_at_the_same_step_with_the_same_bits(
    data: Path, stopped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["train", "--data", data, "--out", out, *FLAGS, *VALIDATE, *PATIENCE]
    words = [str(word) for word in command]
    process = multiprocessing.get_context("forkserver").Process(
        target=_main, args=([*words, "--device", "cpu"], tmp_path, {})
    )
    for name in ("out", "err"):
        (tmp_path / name).touch()
    process.start()
    deadline = time.monotonic() + 300
    while len(checkpoints(out)) < 2 and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (out / "train.json").exists(), "killed too late to show anything"
    assert checkpoints(out)
    resumed = forked(*words, "--resume")
    assert "resumed after step" in resumed.stderr
    done(resumed)
    ours, theirs = (checkpoints(run)[-1] for run in (out, stopped))
    assert ours[0] == theirs[0]
    assert saved_digests(ours[1]) == saved_digests(theirs[1])
    assert records(out) == records(stopped)
    told = [json.loads((run / "train.json").read_text())["validation"] for run in (out, stopped)]
    assert told[0] == told[1]


def test_a_stopped_run_is_done_until_it_is_given_more_patience(
    data: Path, stopped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    words = ["train", "--data", data, "--out", out, *FLAGS, *VALIDATE]
    again = forked(*words, *PATIENCE, "--resume")
    assert again.returncode == 0, again.stderr
    assert "the run has ended before: nothing to do" in again.stderr
    # As a kill behind the last checkpoint leaves it.
    (out / "train.json").unlink()
    done(forked(*words, *PATIENCE, "--resume"))
    assert json.loads((out / "train.json").read_text())["steps"] == checkpoints(stopped)[-1][0]
    assert records(out) == records(stopped)
    longer = forked(*words, "--patience", "3", "--resume")
    assert longer.returncode == 0, longer.stderr
    assert records(out)[: len(records(stopped))] == records(stopped)
    assert len(records(out)) > len(records(stopped))


def config_of(data: Path, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(data=data, out=out, device="cpu", **{"validate_every": 3, **changes})


def test_a_disk_that_refuses_the_record_costs_no_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, tries = validation_module.write_validations, []

    def full_at_first(*arguments: Any) -> None:
        tries.append(arguments)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(validation_module, "write_validations", full_at_first)
    small = ModelConfig(embedding_dim=8, hidden=(8,), output_dim=8)
    train(config_of(data, tmp_path / "run", epochs=1, batch_size=512, model=small))
    assert "the validation of step 3 waits: No space left on device" in capsys.readouterr().err
    assert [one["step"] for one in records(tmp_path / "run")] == [3, 6, 8]


def test_what_cannot_be_validated_is_refused_before_anything_is_written(
    data: Path, planted: Dataset, tmp_path: Path
) -> None:
    refused = forked(
        "train", "--data", planted.folder, "--out", tmp_path / "run", "--validate-every", "5"
    )
    assert refused.returncode == 2
    assert "has no validation.parquet: prepare it with --validation-share" in refused.stderr
    assert not (tmp_path / "run").exists()
    known = config_of(data, tmp_path / "run", stop_by="cold/MRR")
    with pytest.raises(SharedError, match=r"--stop-by cold/MRR: none of the \d+ queries"):
        validation_queries(known, Dataset.open(data))


def test_the_sample_is_drawn_by_the_seed_and_all_is_all(data: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(data)

    def rows(**changes: Any) -> list[tuple[int, int]]:
        protocol = validation_queries(config_of(data, tmp_path, **changes), dataset)
        assert protocol is not None
        return list(zip(protocol.user_row.tolist(), protocol.item_index.tolist(), strict=True))

    everything = rows(validation_queries=0)
    assert len(everything) == dataset.schema.validation
    assert rows(validation_queries=dataset.schema.validation) == everything
    some = rows(validation_queries=200)
    assert 150 < len(some) <= 200
    # All of each user's.
    assert sorted(some) == sorted(row for row in everything if row[0] in dict(some))
    assert some == rows(validation_queries=200)
    assert some != rows(validation_queries=200, seed=1)
    assert len(dict(rows(validation_queries=1))) == 1
