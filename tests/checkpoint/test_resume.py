"""Killed, interrupted, resumed: the same bits as a run that nobody disturbed."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.retrieval.trained import load_model
from tests.checkpoint.saved import saved_digests, saved_tensors
from tests.end_to_end.cli import ENVIRONMENT
from tests.end_to_end.forked import forked
from tests.end_to_end.launched import TRAIN

FLAGS = ["--epochs", "2", "--batch-size", "128", "--checkpoint-every", "10", "--log-every", "5"]


def run(data: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return forked("train", "--data", data, "--out", out, *FLAGS, *more)


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
    process = subprocess.Popen(
        [*TRAIN, "--data", str(planted.folder), "--out", str(out), *FLAGS],
        env=ENVIRONMENT,
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
    ours = saved_digests(checkpoints(out)[-1][1])
    theirs = saved_digests(checkpoints(undisturbed)[-1][1])
    assert ours == theirs
    assert json.loads((out / "train.json").read_text())["steps"] == last


def test_a_half_written_checkpoint_is_not_taken_for_whole(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / "step-00000099"
    folder.mkdir(parents=True)
    (folder / "rank-0000-of-0001.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoints" / "step-00000098.partial").mkdir()
    assert [path for _, path in checkpoints(tmp_path)] == [folder]
    (tmp_path / "config.json").write_text((undisturbed / "config.json").read_text())
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        load_model(tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no whole checkpoint yet"):
        load_model(tmp_path)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut, Path.unlink])
@pytest.mark.parametrize(
    "file", ["rank-0000-of-0001.safetensors", "checkpoint.json", "sha256.json"]
)
def test_a_damaged_checkpoint_is_passed_over_aloud(
    damage: Callable[[Path], None],
    file: str,
    undisturbed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (older, _), (_, newest) = checkpoints(out)
    damage(newest / file)
    assert load_model(out).step == older
    assert f"{newest}: damaged (" in capsys.readouterr().err
    for _, folder in checkpoints(out):
        (folder / "checkpoint.json").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        load_model(out)


def test_a_run_resumed_from_an_older_checkpoint_ends_with_the_same_bits(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (older, _), (_, newest) = checkpoints(out)
    flip_a_bit(newest / "rank-0000-of-0001.safetensors")
    resumed = run(planted.folder, out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed after step {older}" in resumed.stderr
    assert newest.with_name(newest.name + ".damaged").is_dir()
    ours, theirs = (saved_digests(checkpoints(r)[-1][1]) for r in (out, undisturbed))
    assert ours == theirs


def test_checkpoints_without_digests_are_damaged_and_not_overlooked(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """As an interrupted copy leaves them: a run must not silently begin at its start."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    for _, folder in checkpoints(out):
        (folder / "sha256.json").unlink()
    before = sorted(str(path) for path in out.rglob("*"))
    refused = run(planted.folder, out, "--resume")
    assert refused.returncode == 2
    assert "every checkpoint is damaged" in refused.stderr
    assert sorted(str(path) for path in out.rglob("*")) == before


def test_resuming_a_run_that_has_ended_changes_nothing(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    resumed = run(planted.folder, out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "the run has ended before" in resumed.stderr
    assert (out / "train.json").read_bytes() == (undisturbed / "train.json").read_bytes()


def test_a_run_killed_behind_its_last_step_tells_its_loss_all_the_same(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "train.json").unlink()
    resumed = run(planted.folder, out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (json.loads((r / "train.json").read_text()) for r in (out, undisturbed))
    assert ours["resumed_after"] == ours["steps"]
    assert (ours["loss"], ours["loss_steps"]) == (theirs["loss"], theirs["loss_steps"])
    # Beside the curve, of every 5th step, and not the last, partial batch's.
    curve = [value for _, value in points(undisturbed)[-4:-1]]
    assert min(curve) - 0.5 < ours["loss"]["main"] < max(curve) + 0.5


def test_tensorboard_keeps_the_point_at_which_a_run_was_resumed(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (older, _), (_, newest) = checkpoints(out)
    shutil.rmtree(newest)
    assert run(planted.folder, out, "--resume").returncode == 0
    ours, theirs = (points(folder) for folder in (out, undisturbed))
    assert older in {step for step, _ in ours}
    assert ours == theirs


def points(run: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss/main")]


def with_users_turned_round(data: Path, out: Path) -> Path:
    """The same sizes; the first user's id is the last one's."""
    shutil.copytree(data, out, ignore=shutil.ignore_patterns(".*"))
    table = pq.read_table(data / "users.parquet")
    turned = table.column("user_id").take(pa.array(range(len(table) - 1, -1, -1)))
    at = table.column_names.index("user_id")
    pq.write_table(table.set_column(at, "user_id", turned), out / "users.parquet")
    return out


@pytest.mark.parametrize("use", ["resume", "export"])
def test_another_dataset_of_the_same_sizes_is_refused(
    use: str, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    other = with_users_turned_round(planted.folder, tmp_path / "other")
    arguments = {
        "resume": ["train", "--out", str(undisturbed), *FLAGS, "--resume"],
        "export": ["export", "--run", str(undisturbed), "--out", str(tmp_path / "export")],
    }[use]
    refused = forked(*arguments, "--data", other)
    assert refused.returncode == 2
    assert "stand in other embedding rows" in refused.stderr
    assert not (tmp_path / "export").exists()


def test_another_dataset_of_the_same_sizes_is_evaluated_by_id(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """What is computed then: tests/retrieval/test_other_dataset.py."""
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    other = with_users_turned_round(planted.folder, tmp_path / "other")
    words = ["evaluate", "--run", str(run), "--no-fitted-baselines"]
    found = {}
    for data in (planted.folder, other):
        evaluated = forked(*words, "--data", data)
        assert evaluated.returncode == 0, evaluated.stderr
        said = f"on {data}, its rows matched by id: the run knows "
        assert (said in evaluated.stdout) == (data == other)
        found[data] = json.loads((run / "metrics.json").read_text())
    assert "matched" not in found[planted.folder]
    assert found[other]["matched"]["items"] == {"known": 200, "unknown": 0}
    # The same questions, asked of other users.
    assert found[other]["all"]["queries"] == found[planted.folder]["all"]["queries"]
    assert found[other]["all"]["MRR"] != found[planted.folder]["all"]["MRR"]


def test_loaded_weights_are_those_that_were_saved(undisturbed: Path, tmp_path: Path) -> None:
    model = load_model(undisturbed).model
    saved = saved_tensors(checkpoints(undisturbed)[-1][1])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[f"towers/dat.{name}"])
    for collection in ("embeddings", "augmented"):
        for table, rows in getattr(model, collection).tables.items():
            assert torch.equal(rows.local, saved[f"tables/dat.{collection}.{table}/weight"])


def test_an_uninterrupted_run_repeats_bit_for_bit(
    planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    assert run(planted.folder, out).returncode == 0
    first, second = (saved_digests(checkpoints(r)[-1][1]) for r in (undisturbed, out))
    assert first == second
