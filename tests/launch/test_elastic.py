"""An elastic job on two hosts: one is lost and comes back, and training goes on throughout.

The hosts have addresses of their own, and run what the component ``train`` with ``-j 1:2x1`` has
a scheduler run there. On one host the tables are sharded anew.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torchx.specs import macros

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from launch import components
from tests.device import DEVICE_FLAGS
from tests.end_to_end.cli import done
from tests.end_to_end.forked import forked
from tests.launch.hosts import Hosts, missing

FLAGS = (
    *DEVICE_FLAGS,
    *("--epochs", "40", "--batch-size", "80", "--log-every", "500", "--checkpoint-every", "25"),
    *("--model.embedding-dim", "16", "--model.hidden", "16", "--model.output-dim", "8"),
    *("--model.precision", "float64"),
)
STEPS = 2032
"""Forty epochs of 8128 examples, 160 a step."""
LOST_S = 120
"""Maximum seconds in which a job that lost a host must have made another step on what is left: on a
machine that runs nothing else some 33, and other tests run beside."""
BACK_S = 120
"""Maximum seconds in which it must have made one on both, once the host is back."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if why := missing():
        pytest.skip(why)
    hosts = Hosts(tmp_path_factory.mktemp("hosts"), 2, network=80)
    hosts.down()
    hosts.up()
    yield hosts
    hosts.down()


@pytest.fixture(scope="module")
def undisturbed(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process on the same global batches."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    flags = ["160" if flag == "80" else flag for flag in FLAGS]
    done(forked("train", "--data", planted.folder, "--out", run, *flags))
    return run


class Job:
    """The elastic job of one run."""

    def __init__(self, hosts: Hosts, data: Path, run: Path) -> None:
        self._hosts = hosts
        self.run = run
        app = components.train(*FLAGS, data=str(data), out=str(run), j="1:2x1")
        self._role = app.roles[0]
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Do a scheduler's part on one host."""
        values = macros.Values(
            img_root="",
            app_id=self.run.parent.name,
            replica_id=str(number),
            rank0_env="TORCHX_RANK0_HOST",
        )
        role = values.apply(self._role)
        first = f"TORCHX_RANK0_HOST={self._hosts.names[0]}"
        command = self._hosts.at(
            self._hosts.names[number], "env", first, role.entrypoint, *role.args
        )
        with self._log(number).open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        self._started.append(process)
        return process

    def _log(self, number: int) -> Path:
        return self.run.with_name(f"host-{number}.log")

    def output(self, number: int = 0) -> str:
        return self._log(number).read_text("utf-8", "replace")

    def starts(self) -> list[int]:
        """After which step each start but the first has gone on."""
        said = re.findall(r"resumed after step (\d+) of", self.output())
        return [int(step) for step in said]

    def step(self) -> int:
        """That of the newest checkpoint."""
        return max((step for step, _ in checkpoints(self.run)), default=0)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> float:
        """Wait for a state; how long it took."""
        begin = time.monotonic()
        while not ready():
            assert time.monotonic() - begin < seconds, self.output()
            assert self._started[0].poll() is None, self.output()
            time.sleep(0.05)
        return time.monotonic() - begin

    def next_step(self, starts: int, seconds: float) -> float:
        """Wait until the job has gone on so often, and made a step since; how long it took."""

        def ready() -> bool:
            found = self.starts()
            return len(found) >= starts and self.step() > found[starts - 1]

        return self.wait_until(ready, seconds)

    def end(self) -> None:
        """Kill what is left."""
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def job(hosts: Hosts, planted: Dataset, tmp_path: Path) -> Iterator[Job]:
    job = Job(hosts, planted.folder, tmp_path / "run")
    yield job
    job.end()


@pytest.mark.parametrize("how", ["its link is cut", "it is killed"])
def test_a_lost_host_is_done_without_and_taken_back(
    how: str,
    hosts: Hosts,
    job: Job,
    undisturbed: Path,
    record_property: Callable[[str, object], None],
) -> None:
    lost = hosts.names[1]
    one, other = job.start(0), job.start(1)
    job.wait_until(lambda: job.step() > 0, 60)
    plans = [json.loads((job.run / "plan.json").read_text())]
    if how == "its link is cut":
        hosts.cut(lost)
    else:
        hosts.kill(lost)
    alone_s = job.next_step(1, LOST_S)
    record_property("figure", f"a host lost, {how}: next step after {alone_s:.1f} s")
    plans.append(json.loads((job.run / "plan.json").read_text()))
    hosts.mend(lost)
    if how == "it is killed":
        other = job.start(1)
    back_s = job.next_step(2, BACK_S)
    record_property("figure", f"it comes back: next step on both hosts after {back_s:.1f} s")
    plans.append(json.loads((job.run / "plan.json").read_text()))

    assert one.wait(180) == 0, job.output()
    assert other.wait(30) == 0, job.output(1)
    ranks = [{s["rank"] for row in plan for s in row["shards"]} for plan in plans]
    assert ranks == [{0, 1}, {0}, {0, 1}]
    told = json.loads((job.run / "train.json").read_text())
    assert (told["steps"], told["world_size"]) == (STEPS, 2)
    theirs = json.loads((undisturbed / "train.json").read_text())["loss"]
    assert told["loss"] == pytest.approx(theirs, rel=1e-3)
    # To take the host back, all stop in order: no step is made twice.
    stopped = [
        int(step) for step in re.findall(r"dat-rec: .*SIGTERM after step (\d+)", job.output())
    ]
    assert stopped == job.starts()[1:]
