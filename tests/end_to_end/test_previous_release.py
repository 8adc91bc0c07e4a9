"""A run whose config.json is one of the previous release: resumed, evaluated and exported."""

import json
import shutil
from pathlib import Path

from dat_rec.data.dataset import Dataset
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked

FLAGS = ("--epochs", "1", "--batch-size", "512", "--checkpoint-every", "10")
CONFIG = Path(__file__).parents[1] / "config_of_the_previous_release.json"


def test_a_run_of_the_previous_release_goes_on(planted: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ("train", "--data", planted.folder, "--out", run, *FLAGS)
    done(forked(*train))
    config = json.loads((run / "config.json").read_text())
    before = {name: config[name] for name in json.loads(CONFIG.read_text())}
    assert config.keys() - before.keys() == {"device", "disk_patience_s"}
    (run / "config.json").write_text(json.dumps(before, indent=2))
    shutil.rmtree(run / "checkpoints" / "step-00000016")
    ended = json.loads((run / "train.json").read_text())
    (run / "train.json").unlink()
    done(forked("evaluate", "--run", run))
    done(forked("export", "--run", run, "--out", tmp_path / "export"))
    done(forked(*train, "--resume"))
    again = json.loads((run / "train.json").read_text())
    assert (again["steps"], again["loss"]) == (ended["steps"], ended["loss"])
    assert json.loads((run / "config.json").read_text()).keys() == config.keys()
