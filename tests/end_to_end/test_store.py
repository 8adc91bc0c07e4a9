"""Everything on s3://, against a real server that is killed: the results of a local run."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.cli import run_command
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources import Synthetic
from dat_rec.errors import UserError
from dat_rec.retrieval.evaluate import evaluate
from dat_rec.retrieval.export import export
from dat_rec.retrieval.recommend import recommend, sample
from dat_rec.runs.mirror import mirrored_steps
from dat_rec.storage.address import Address, location
from dat_rec.storage.client import forget_clients
from dat_rec.storage.snapshot import local_copy
from tests.checkpoint.saved import saved_digests
from tests.end_to_end.cli import dat_rec, done
from tests.end_to_end.launched import launched
from tests.object_store import FEW, ObjectStore

FLAGS = [
    "--epochs",
    "12",
    "--examples.shuffle-mb",
    "1",
    "--batch-size",
    "128",
    "--checkpoint-every",
    "50",
    "--log-every",
    "10",
]


@pytest.fixture(scope="module")
def local(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks make of the planted world on a disk."""
    folder = tmp_path_factory.mktemp("local")
    done(dat_rec("train", "--data", str(planted.folder), "--out", folder / "run", *FLAGS, ranks=2))
    evaluate(folder / "run")
    export(folder / "run", folder / "export")
    recommend(folder / "export", 5, folder / "recs.parquet")
    return folder


def address(key: str) -> Address:
    found = location(f"s3://open/{key}")
    assert isinstance(found, Address)
    return found


@pytest.mark.slow
def test_everything_in_a_store_and_the_server_killed_for_ten_seconds(
    object_store: ObjectStore, planted: Dataset, local: Path, tmp_path: Path
) -> None:
    out = Path("s3://open/all/data")
    prepare(Synthetic(out=out, users=300, items=200, interactions=9_000, categories=5))
    assert Dataset.open(address("all/data")).row_digest() == planted.row_digest()
    run, mirror = tmp_path / "run", "s3://open/all/mirror"
    with launched("s3://open/all/data", run, *FLAGS, "--mirror", mirror) as training:
        training.wait_for_checkpoint()
        object_store.kill()
        time.sleep(10)
        object_store.start()
        assert training.wait() == 0, training.output()
        said = training.output()
    # Reading stood still, and was told of.
    assert "reading bytes" in said
    assert ": trying again" in said
    assert ": done, after" in said
    ours, theirs = checkpoints(run), checkpoints(local / "run")
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert saved_digests(ours[-1][1]) == saved_digests(theirs[-1][1])
    assert mirrored_steps(address("all/mirror")) == [step for step, _ in ours]

    evaluate(run)
    assert (run / "metrics.json").read_bytes() == (local / "run" / "metrics.json").read_bytes()
    exported, recs = address("all/export"), address("all/recs.parquet")
    export(run, exported)
    with local_copy(exported, "export.json") as copy:
        parts = ("item_vectors/part-00000.parquet", "users/part-00000.parquet")
        for name in (*parts, "items.parquet", "index.faiss"):
            assert (copy / name).read_bytes() == (local / "export" / name).read_bytes()
    object_store.put("all/ids.parquet", local / "export" / "users/part-00000.parquet")
    recommend(exported, 5, recs, address("all/ids.parquet"))
    assert object_store.get("all/recs.parquet") == (local / "recs.parquet").read_bytes()
    shown = sample(exported, recs, users=2)
    assert shown == sample(local / "export", local / "recs.parquet", users=2)

    # The run's disk is lost, and the newest copy has rotted: it goes on from the one before.
    steps = mirrored_steps(address("all/mirror"))
    newest = next(
        key
        for key in object_store.keys(f"all/mirror/checkpoints/step-{steps[-1]:08d}")
        if "rank-0001" in key
    )
    object_store.put(newest, object_store.get(newest)[:-1])
    shutil.rmtree(run)
    flags = ["--data", "s3://open/all/data", "--out", str(run), *FLAGS, "--mirror", mirror]
    with pytest.raises(UserError, match=rf"^--mirror {mirror} holds a run: pass --resume to go on"):
        run_command("train", flags)
    with launched("s3://open/all/data", run, *flags[4:], "--resume") as training:
        assert training.wait() == 0, training.output()
        said = training.output()
    assert ": looking for an older one" in said
    assert f"the checkpoint of step {steps[-2]} was taken from {mirror}" in said
    assert f"resumed after step {steps[-2]} of" in said
    assert saved_digests(checkpoints(run)[-1][1]) == saved_digests(theirs[-1][1])


@pytest.mark.slow
def test_a_store_that_stays_away_stops_all_ranks_with_file_and_range(
    object_store: ObjectStore, planted: Dataset, tmp_path: Path
) -> None:
    assert isinstance(planted.folder, Path)
    object_store.put_folder(planted.folder, "away")
    variables = object_store.variables | {"DAT_REC_STORE_DEADLINE_S": "1"}
    flags = [*FLAGS, "--epochs", "1000"]
    with launched("s3://open/away", tmp_path / "run", *flags, variables=variables) as training:
        training.wait_for_checkpoint()
        object_store.kill()
        threading.Timer(8, object_store.start).start()
        assert training.wait() == 1
    assert training.ended_with(1, 1), training.output()
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["kind"] == "error"
    assert failure["reason"].startswith(
        "s3://open/away/examples/part-00000.parquet: reading bytes "
    )
    assert "tried for" in failure["reason"]
    object_store.wait()


@pytest.mark.slow
def test_an_object_that_changes_while_it_is_trained_on_stops_the_run(
    object_store: ObjectStore, planted: Dataset, tmp_path: Path
) -> None:
    assert isinstance(planted.folder, Path)
    object_store.put_folder(planted.folder, "changes")
    mirror = "s3://open/mirror-of-changes"
    flags = [*FLAGS, "--epochs", "1000", "--mirror", mirror]
    with launched("s3://open/changes", tmp_path / "run", *flags, ranks=1) as training:
        training.wait_for_checkpoint()
        part = "changes/examples/part-00000.parquet"
        object_store.put(part, object_store.get(part)[:-1])
        assert training.wait() == 1
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["reason"].startswith(
        f"s3://open/{part}: is truncated, or was written anew since"
    )
    assert json.loads(object_store.get("mirror-of-changes/failure.json")) == failure


def test_what_may_not_be_read_is_refused_before_there_is_a_run(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other reasons are tests/storage/test_read.py's."""
    for name, value in FEW.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    with pytest.raises(UserError, match=r"^s3://shut/data/manifest\.json: access denied"):
        run_command("train", ["--data", "s3://shut/data", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
