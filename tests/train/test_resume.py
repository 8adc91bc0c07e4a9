"""Killed, interrupted, resumed: the same bits as a run that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.train.checkpoint import checkpoints, load_model

FLAGS = ["--epochs", "2", "--batch-size", "128", "--checkpoint-every", "10", "--log-every", "5"]


def command(data: Path, out: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "dat_rec", "train", "--data", str(data), "--out", str(out)]
    return [*program, *FLAGS, *more]


def run(data: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(data, out, *more), env=environment, capture_output=True, text=True, check=False
    )


def contents(checkpoint: Path, scratch: Path) -> dict[str, object]:
    """Everything in a checkpoint, flat, as bytes or plain values."""
    file = scratch / "whole.pt"
    dcp_to_torch_save(checkpoint, file)
    flat: dict[str, object] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}/{key}", inner)
        elif isinstance(value, torch.Tensor):
            flat[prefix] = value.numpy().tobytes()
        else:
            flat[prefix] = value

    walk("", torch.load(file, weights_only=False))
    return flat


@pytest.fixture(scope="module")
def undisturbed(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(planted.folder, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    kill: signal.Signals, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(planted.folder, out),
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not checkpoints(out) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(kill)
    process.communicate()
    assert process.returncode != 0
    found = checkpoints(out)
    last = checkpoints(undisturbed)[-1][0]
    assert found
    assert found[-1][0] < last, "killed too late to show anything"
    assert not (out / "train.json").exists()

    resumed = run(planted.folder, out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed after step {found[-1][0]}" in resumed.stderr
    ours = contents(checkpoints(out)[-1][1], tmp_path)
    theirs = contents(checkpoints(undisturbed)[-1][1], tmp_path)
    assert ours == theirs
    assert json.loads((out / "train.json").read_text())["steps"] == last


def test_a_half_written_checkpoint_is_not_taken_for_whole(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / "step-00000099"
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_bytes(b"half")
    (tmp_path / "checkpoints" / "step-00000098.partial").mkdir()
    assert checkpoints(tmp_path) == []
    (tmp_path / "config.json").write_text((undisturbed / "config.json").read_text())
    with pytest.raises(UserError, match="no whole checkpoint yet"):
        load_model(tmp_path)


def test_a_damaged_checkpoint_is_refused_in_one_line(undisturbed: Path, tmp_path: Path) -> None:
    for path in ("config.json", "schema.json"):
        (tmp_path / path).write_text((undisturbed / path).read_text())
    _, source = checkpoints(undisturbed)[-1]
    target = tmp_path / "checkpoints" / source.name
    target.mkdir(parents=True)
    for file in source.iterdir():
        data = file.read_bytes()
        (target / file.name).write_bytes(data[: len(data) // 20] if file.suffix else data)
    with pytest.raises(UserError, match="cannot be loaded") as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value)


def test_loaded_weights_are_those_that_were_saved(undisturbed: Path, tmp_path: Path) -> None:
    model, _ = load_model(undisturbed)
    saved = contents(checkpoints(undisturbed)[-1][1], tmp_path)
    for name, tensor in model.state_dict().items():
        assert tensor.numpy().tobytes() == saved[f"/model/dat.{name}"]


def test_an_uninterrupted_run_repeats_bit_for_bit(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    assert run(planted.folder, out).returncode == 0
    first, second = (contents(checkpoints(r)[-1][1], tmp_path) for r in (undisturbed, out))
    assert first == second


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "--seed", "9"], "--resume with --seed 9 (0)"),
        (["--resume", "--model.embedding-dim", "8"], "--resume with --model.embedding-dim 8 (32)"),
        ([], "holds a run"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    flags: list[str], message: str, planted: Dataset, undisturbed: Path
) -> None:
    refused = run(planted.folder, undisturbed, *flags)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
