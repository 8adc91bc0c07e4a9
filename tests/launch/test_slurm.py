"""Jobs on a running Slurm: trained, followed, stopped, queued again, robbed of a node, refused.

Two nodes and a spare one, each with an address of its own; what comes of the runs is compared
with one process on the same global batches, and with a run that nobody disturbed.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from tests.checkpoint.saved import saved_digests
from tests.device import DEVICE_FLAGS
from tests.end_to_end import launched
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked, on_ranks
from tests.end_to_end.launched import STEPS
from tests.launch.hosts import missing
from tests.launch.slurm_cluster import PROGRAMS, Cluster

FLAGS = (*DEVICE_FLAGS, *launched.FLAGS)
LOST_S = 120
"""Maximum seconds in which a run whose node was killed must have made another step: on a machine
that runs nothing else some 40, and other tests run beside."""
BRIEFLY = "preflight=False"
ANOTHER_NETWORK = 76

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@contextmanager
def running(cluster: Cluster, mounts: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """The cluster, up; jobs are submitted from its folder, and have their logs there."""
    if why := missing(PROGRAMS):
        pytest.skip(why)
    before = Path.cwd()
    try:
        cluster.up(mounts)
        os.chdir(cluster.folder)
        yield cluster
    finally:
        os.chdir(before)
        cluster.down()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(Cluster(tmp_path_factory.mktemp("slurm"), 3)) as cluster:
        yield cluster


@pytest.fixture
def another_cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster for a test that breaks its nodes."""
    return Cluster(tmp_path_factory.mktemp("slurm"), 3, ANOTHER_NETWORK)


@pytest.fixture(scope="module")
def undisturbed(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training on two ranks of this machine, without Slurm."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done(on_ranks(2, "train", "--data", planted.folder, "--out", run, *FLAGS))
    return run


def submit(
    cluster: Cluster, planted: Dataset, run: Path, *more: str, options: str = BRIEFLY
) -> str:
    """Submit training on two nodes; gives the job's id."""
    words = ("--data", str(planted.folder), "--out", str(run), "-j", "2x1")
    return cluster.submit("train", *words, "--", *FLAGS, *more, options=options)


def steps(run: Path) -> list[int]:
    return [step for step, _ in checkpoints(run)]


def bits(run: Path) -> dict[str, str]:
    step, folder = checkpoints(run)[-1]
    assert step == STEPS
    return saved_digests(folder)


def starts(cluster: Cluster, job: str) -> list[int]:
    """After which step each start but the first has gone on."""
    said = cluster.logs(job, "err")
    return [int(step) for step in re.findall(r"resumed after step (\d+) of", said)]


def test_training_and_evaluation_through_torchx_equal_one_process(
    cluster: Cluster, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    job = submit(cluster, planted, run, options="preflight=True")
    assert cluster.wait(job) == "COMPLETED"
    assert json.loads((run / "train.json").read_text())["world_size"] == 2
    assert bits(run) == bits(undisturbed)
    evaluation = cluster.submit("evaluate", "--run", str(run))
    assert cluster.wait(evaluation) == "COMPLETED"

    batch = FLAGS.index("--batch-size") + 1
    flags = (*FLAGS[:batch], "160", *FLAGS[batch + 1 :])
    done(forked("train", "--data", planted.folder, "--out", alone, *flags))
    done(forked("evaluate", "--run", alone))
    theirs, ours = ((path / "metrics.json").read_text() for path in (alone, run))
    assert json.loads(ours) == json.loads(theirs)

    handle = f"slurm://torchx/{job}"
    assert "SUCCEEDED" in cluster.torchx("status", handle).stdout
    outside = cluster.torchx("log", f"{handle}/train/0", folder=tmp_path)
    assert f"{STEPS}/{STEPS}" in outside.stdout
    assert len(list(Path("logs").glob(f"slurm-{job}*"))) == 5


def test_a_job_that_is_queued_again_goes_on_where_it_was(
    cluster: Cluster, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # A user who allows --overwrite does not lose what the job has done.
    job = submit(cluster, planted, run, "--overwrite")
    cluster.wait_for("the first checkpoint", lambda: bool(steps(run)))
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    assert cluster.wait(job) == "COMPLETED"
    (resumed,) = starts(cluster, job)
    said = cluster.logs(job, "err")
    assert f"stopped by SIGTERM after step {resumed} of {STEPS}, whose checkpoint is whole" in said
    assert bits(run) == bits(undisturbed)


def test_a_job_at_its_time_limit_saves_and_is_queued_again(
    cluster: Cluster, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """What `#SBATCH --signal` sends before the limit is sent by hand, to the steps alone."""
    run = tmp_path / "run"
    job = submit(cluster, planted, run)
    cluster.wait_for("the first checkpoint", lambda: bool(steps(run)))
    assert cluster.run("scancel", "--signal=TERM", job).returncode == 0
    assert cluster.wait(job) == "COMPLETED"
    assert len(starts(cluster, job)) == 1
    assert bits(run) == bits(undisturbed)
    script = Path("logs") / f"slurm-{job}.out"
    assert "exit code is 75" in script.read_text()


def test_a_cancelled_job_is_told_as_cancelled_and_can_be_resumed(
    cluster: Cluster, planted: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(cluster, planted, run)
    cluster.wait_for("the first checkpoint", lambda: bool(steps(run)))
    handle = f"slurm://torchx/{job}"
    assert cluster.torchx("cancel", handle).returncode == 0
    assert cluster.wait(job).startswith("CANCELLED")
    told = cluster.torchx("status", handle)
    assert (told.returncode, "CANCELLED" in told.stdout) == (0, True)
    assert steps(run)[-1] < STEPS
    again = submit(cluster, planted, run, "--resume")
    assert cluster.wait(again) == "COMPLETED"
    assert bits(run) == bits(undisturbed)


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_node_costs_under_two_minutes(
    number: int,
    another_cluster: Cluster,
    planted: Dataset,
    undisturbed: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The link goes dead, as with a machine without power: no connection is closed."""
    run = tmp_path / "run"
    with running(another_cluster) as cluster:
        job = submit(cluster, planted, run)
        cluster.wait_for("the first checkpoint", lambda: bool(steps(run)))
        nodes = cluster.run("squeue", "-h", f"--jobs={job}", "--format=%N").stdout.split()
        cluster.kill(nodes[number])
        begin = time.monotonic()
        reached = max(steps(run))
        cluster.wait_for("the restart", lambda: bool(starts(cluster, job)))
        (resumed,) = starts(cluster, job)
        cluster.wait_for("the next step", lambda: max(steps(run)) > resumed)
        seconds = time.monotonic() - begin
        record_property(
            "figure", f"a Slurm node killed ({number}): next step after {seconds:.1f} s"
        )
        assert cluster.wait(job) == "COMPLETED"
    assert resumed >= reached
    assert seconds < LOST_S
    assert bits(run) == bits(undisturbed)


def test_what_the_ranks_refuse_is_not_queued_again(
    cluster: Cluster, planted: Dataset, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    done(forked("prepare", "synthetic", "--out", data, "--users", 300, "--items", 200))
    victim = sorted(data.rglob("examples/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-100])
    words = ("--data", str(data), "--out", str(tmp_path / "run"), "-j", "2x1")
    job = cluster.submit("train", *words, options=BRIEFLY)
    assert cluster.wait(job) == "FAILED"
    told = cluster.run("sacct", "-X", "-n", "-P", "-D", "-j", job, "-o", "State,ExitCode").stdout
    assert set(told.split()) == {"FAILED|2:0"}
    (line,) = set(re.findall(r"dat-rec: .*error: (.*)", cluster.logs(job, "err")))
    assert str(victim) in line


def refused(cluster: Cluster, planted: Dataset, run: Path, *words: str, options: str = "") -> str:
    """What is said of a job that is refused: one line, and no job is queued."""
    jobs = ("sacct", "-X", "-n", "-P", "--name=train", "-o", "JobID")
    before = cluster.run(*jobs).stdout
    with pytest.raises(RuntimeError, match="exit code 2") as failed:
        submit(cluster, planted, run, *words, options=options or "preflight=True")
    assert cluster.run(*jobs).stdout == before
    assert cluster.run("squeue", "--noheader", "--name=train").stdout == ""
    assert not run.exists()
    (line,) = re.findall(r"launch: error: (.*)", str(failed.value))
    assert "Traceback" not in str(failed.value)
    return line


def test_what_is_wrong_with_the_nodes_is_found_before_anything_is_queued(
    another_cluster: Cluster, planted: Dataset, tmp_path: Path
) -> None:
    """One node has another version of a package, the other does not share the run's folder."""
    version = metadata.version("torchrec")
    theirs = Path(metadata.distribution("torchrec").locate_file(f"torchrec-{version}.dist-info"))
    other = tmp_path / "METADATA"
    other.write_text((theirs / "METADATA").read_text().replace("\nVersion: 1", "\nVersion: 9"))
    folder = tmp_path / "folder"
    folder.mkdir()
    first, second, _ = another_cluster.names
    mounts = {
        first: f"mount --bind {other} {theirs / 'METADATA'}",
        second: f"mount -t tmpfs own {folder}",
    }
    with running(another_cluster, mounts) as cluster:
        said = refused(cluster, planted, folder / "run")
    assert re.search(f"torchrec: .*9{re.escape(version[1:])}.*{first}", said), said
    assert "folder: " in said
    assert "rank 1 wrote" in said or f"({second}) does not see" in said


def test_a_port_in_use_on_a_node_is_found_before_anything_is_queued(
    cluster: Cluster, planted: Dataset, tmp_path: Path
) -> None:
    listen = (
        "import socket; s = socket.create_server(('', 29500)); print('on', flush=True)\n"
        "while True: s.accept()"
    )
    others = [
        subprocess.Popen(
            cluster.at(node, sys.executable, "-c", listen), stdout=subprocess.PIPE, text=True
        )
        for node in cluster.names
    ]
    try:
        assert all(other.stdout and other.stdout.readline() for other in others)
        words = ("--data", str(planted.folder), "--out", str(tmp_path / "run"), "-j", "2x1")
        with pytest.raises(RuntimeError, match="exit code 2") as failed:
            cluster.submit("train", *words, "--rdzv_port", "29500")
    finally:
        for other in others:
            other.kill()
            other.wait()
    (line,) = re.findall(r"launch: error: (.*)", str(failed.value))
    assert "port 29500 cannot be listened on" in line
    assert cluster.run("squeue", "--noheader", "--name=train").stdout == ""


@pytest.mark.parametrize(
    ("options", "sizes", "message"),
    [
        ("partition=none", "2x1", "sbatch refused the job: invalid partition specified: none"),
        ("", "9x1", "sbatch refused the job: allocation failure: "),
        ("", "1:2x1", "Slurm gives a job a fixed number of nodes"),
        ("time=3", "2x1", "-cfg time=3: a job is asked to save 120 s before its end"),
        ("job_dir=/tmp/no", "2x1", "-cfg job_dir=/tmp/no: jobs run this very checkout"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused(
    options: str, sizes: str, message: str, cluster: Cluster, planted: Dataset, tmp_path: Path
) -> None:
    words = ("--data", str(planted.folder), "--out", str(tmp_path / "run"), "-j", sizes)
    with pytest.raises(RuntimeError, match="exit code 2") as failed:
        cluster.submit("train", *words, options=options or "preflight=True")
    (line,) = re.findall(r"launch: error: .*", str(failed.value))
    assert message in line
    assert cluster.run("squeue", "--noheader", "--name=train").stdout == ""
