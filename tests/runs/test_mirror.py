"""A mirror keeps the run that it was given for, and no other."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.errors import StoreError, UserError
from dat_rec.runs import from_mirror
from dat_rec.runs.mirror import mirrored_steps
from dat_rec.storage.address import Address, location
from dat_rec.storage.retry import DEADLINE
from dat_rec.storage.snapshot import fetch
from dat_rec.training.train import train
from tests.object_store import ObjectStore


def test_a_mirror_must_be_an_address(tmp_path: Path) -> None:
    config = TrainConfig(data=tmp_path, out=tmp_path / "run", mirror=tmp_path / "mirror")
    with pytest.raises(UserError, match=r"^--mirror .*/mirror: is no address: write e\.g\. s3://"):
        config.check()


def test_a_mirror_follows_the_run_and_is_no_other_ones(
    object_store: ObjectStore,
    planted: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror, run = location("s3://open/mirrored"), tmp_path / "run"
    assert isinstance(mirror, Address)
    config = TrainConfig(
        data=planted.folder, out=run, mirror=mirror, epochs=2, batch_size=512, checkpoint_every=5
    )
    config = dataclasses.replace(config, keep_checkpoints=3)
    train(config)
    steps = [step for step, _ in checkpoints(run)]
    assert len(steps) == 3
    assert mirrored_steps(mirror) == steps
    assert json.loads(object_store.get("mirrored/train.json"))["steps"] == steps[-1]

    # The disk is lost and the newest copy is rubbish: it is passed over, but not for a store that
    # goes away. (That would mean to train anew, and to remove every copy.)
    newest = f"mirrored/checkpoints/step-{steps[-1]:08d}/manifest.json"
    object_store.put(newest, b"{")
    resumed = dataclasses.replace(config, out=tmp_path / "again", resume=True)
    monkeypatch.setenv(DEADLINE, "0.5")

    def fetch_from_a_dead_server(source: Address, target: Path) -> None:
        object_store.kill()
        fetch(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(from_mirror, "fetch", fetch_from_a_dead_server)
        with pytest.raises(StoreError, match=r"reading bytes .*, tried for"):
            train(resumed)
    object_store.start()
    assert "every checkpoint is damaged" not in capsys.readouterr().err
    assert not (tmp_path / "again" / "config.json").exists()
    train(resumed)
    said = capsys.readouterr().err
    assert f"{newest}: the manifest is not valid JSON" in said
    assert f"the checkpoint of step {steps[-2]} was taken from s3://open/mirrored" in said
    steps = [step for step, _ in checkpoints(tmp_path / "again")]
    assert mirrored_steps(mirror) == steps

    # Of another run nothing is taken, and nothing is removed there.
    other = dataclasses.replace(resumed, out=tmp_path / "third", seed=1)
    with pytest.raises(UserError, match=r"holds another run: --seed 1 \(0\), in brackets"):
        train(other)
    assert not other.out.exists()
    train(dataclasses.replace(other, resume=False, mirror=None))
    shutil.copytree(other.out, tmp_path / "moved")
    (tmp_path / "moved" / "train.json").unlink()  # as if it had not ended
    train(dataclasses.replace(other, out=tmp_path / "moved"))
    said = capsys.readouterr().err
    assert "mirror: --mirror s3://open/mirrored holds another run: --seed 1 (0)" in said
    assert mirrored_steps(mirror) == steps

    # Begun anew with other checkpoints: those of before must not be taken for its own.
    config = dataclasses.replace(config, out=tmp_path / "other", seed=1, checkpoint_every=7)
    with pytest.raises(UserError, match=r"^--mirror s3://open/mirrored holds a run: pass --resume"):
        train(config)
    assert mirrored_steps(mirror) == steps
    train(dataclasses.replace(config, overwrite=True, epochs=1))
    steps = [step for step, _ in checkpoints(tmp_path / "other")]
    assert mirrored_steps(mirror) == steps
    assert json.loads(object_store.get("mirrored/config.json"))["seed"] == 1
