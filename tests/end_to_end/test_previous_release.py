"""A run whose config.json is one of the previous release: evaluated, exported, begun from.

It took its examples in another order, so that it is not resumed.
"""

import json
import shutil
from pathlib import Path

from dat_rec.data.dataset import Dataset
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked

FLAGS = ("--epochs", "1", "--batch-size", "512", "--checkpoint-every", "10")
CONFIG = Path(__file__).parents[1] / "config_of_the_previous_release.json"
NEW = {
    *("device", "disk_patience_s", "log_to", "matmul", "mirror", "order"),
    *("patience", "softmax", "stop_by", "validate_every", "validation_queries"),
}
"""What config.json has since."""
NEW_OF_GROUP = {
    "examples": {"lanes", "shuffle_mb", "user_dropout"},
    "loss": {
        *("learn_temperature", "margin", "negative_weight", "own_log_q", "popularity", "queue"),
        "unknown_count",
    },
    "model": {"generate", "linear", "pooling", "residual"},
    "optimizer": {"table_start"},
}
"""What its groups have since."""


def test_a_run_of_the_previous_release_is_of_use(planted: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ("train", "--data", planted.folder, "--out", run, *FLAGS)
    done(forked(*train))
    config = json.loads((run / "config.json").read_text())
    before = {name: config[name] for name in json.loads(CONFIG.read_text())}
    assert config.keys() - before.keys() == NEW
    for group, names in NEW_OF_GROUP.items():
        new = config[group].keys() - json.loads(CONFIG.read_text())[group].keys()
        assert new == names
        for name in new:
            del before[group][name]
    (run / "config.json").write_text(json.dumps(before, indent=2))
    shutil.rmtree(run / "checkpoints" / "step-00000016")
    (run / "train.json").unlink()
    done(forked("evaluate", "--run", run))
    done(forked("export", "--run", run, "--out", tmp_path / "export"))
    refused = forked(*train, "--resume")
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert last == (
        f"dat-rec: error: {run}: the release that began it took the examples in another order, so "
        f"that it cannot go on: begin a new --out with --warm-start {run}"
    )
    assert json.loads((run / "config.json").read_text()) == before
    done(
        forked(
            "train",
            "--data",
            planted.folder,
            "--out",
            tmp_path / "next",
            *FLAGS,
            "--warm-start",
            run,
        )
    )
    assert json.loads((tmp_path / "next" / "train.json").read_text())["steps"] == 16
