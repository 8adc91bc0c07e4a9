"""A run with heads for unknown ids through the commands: pipeline, validation, resume, export."""

import json
import shutil
from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from tests.checkpoint.saved import saved_digests, saved_tensors
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked

FLAGS = (
    *("--epochs", "2", "--batch-size", "512", "--checkpoint-every", "10"),
    *("--model.generate", "--validate-every", "10"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("generate") / "data"
    world = Synthetic(out=out, users=300, items=200, interactions=9_000, validation_share=0.1)
    prepare(world)
    return Dataset.open(out)


def test_commands_take_a_run_with_heads(data: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ("train", "--data", data.folder, "--out", run, *FLAGS)
    done(forked(*train))
    newest = checkpoints(run)[-1][1]
    saved = saved_tensors(newest)
    heads = {name for name in saved if name.startswith("towers/") and "generator" in name}
    assert len(heads) == 8, "weights and biases of two layers on two sides"
    assert all(saved[name].any() for name in heads)
    expected, validations = saved_digests(newest), (run / "validations.jsonl").read_text()

    shutil.rmtree(newest)
    (run / "train.json").unlink()
    done(forked(*train, "--resume"))
    assert saved_digests(newest) == expected

    def figures(text: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in text.splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert figures((run / "validations.jsonl").read_text()) == figures(validations)
    done(forked("evaluate", "--run", run, "--no-fitted-baselines"))
    done(forked("export", "--run", run, "--out", tmp_path / "export"))
    recommend = ("recommend", "--export", tmp_path / "export", "--k", "5")
    done(forked(*recommend, "--out", tmp_path / "recs.parquet"))
