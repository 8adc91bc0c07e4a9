"""The component, read back by TorchX, by bash and by torchrun's own parser."""

import json
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from torch.distributed.run import parse_args
from torchx.components.component_test_base import ComponentTestCase
from torchx.runner import get_runner
from torchx.specs import AppDef, macros

from dat_rec.data.dataset import Dataset
from dat_rec.install import CHECKOUT
from dat_rec.train.checkpoint import checkpoints
from launch import components


class TestComponent(ComponentTestCase):
    def test_torchx_accepts_signature_and_docstring(self) -> None:
        self.validate(components, "train")


def dry_run(*arguments: str, log_dir: Path) -> AppDef:
    """The job that ``torchx run -s local_cwd launch/components.py:train …`` would start."""
    with get_runner("test") as runner:
        info = runner.dryrun_component(
            f"{CHECKOUT / 'launch' / 'components.py'}:train",
            ["--data", "my data", "--out", "run", *arguments],
            scheduler="local_cwd",
            cfg={"log_dir": str(log_dir)},
        )
    assert info._app is not None
    return info._app


def torchrun_arguments(app: AppDef, environment: dict[str, str]) -> Namespace:
    """What torchrun understands of the job's command line, after TorchX and bash."""
    role = app.roles[0]
    assert role.entrypoint == "bash"
    values = macros.Values(
        img_root="", app_id="job-1", replica_id="0", rank0_env="TORCHX_RANK0_HOST"
    )
    command = values.substitute(role.args[1])
    script = command.replace("exec ", "printf '%s\\0' ", 1)
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=True)
    words = done.stdout.decode().rstrip("\0").split("\0")
    assert words[1:3] == ["-m", "torch.distributed.run"]
    return parse_args(words[3:])


def test_one_host(tmp_path: Path) -> None:
    app = dry_run("--", "--epochs", "2", "--resume", log_dir=tmp_path)
    found = torchrun_arguments(app, {})
    assert found.rdzv_id == "job-1"
    assert (found.nnodes, found.nproc_per_node) == ("1", "2")
    assert found.rdzv_endpoint == "localhost:0"
    assert (found.module, found.training_script) == (True, "dat_rec")
    assert found.training_script_args == [
        *("train", "--data", "my data", "--out", "run", "--preset", "modern"),
        *("--epochs", "2", "--resume"),
    ]


def test_several_hosts_meet_at_the_first(tmp_path: Path) -> None:
    app = dry_run("-j", "2:3x4", "--rdzv_port", "29600", log_dir=tmp_path)
    role = app.roles[0]
    assert (role.min_replicas, role.num_replicas) == (2, 3)
    assert role.port_map == {"c10d": 29600}
    found = torchrun_arguments(app, {"TORCHX_RANK0_HOST": "host-a"})
    assert (found.nnodes, found.nproc_per_node) == ("2:3", "4")
    assert found.rdzv_endpoint == "host-a:29600"
    assert torchrun_arguments(app, {}).rdzv_endpoint == "localhost:29600"


def test_restarts_and_lost_hosts(tmp_path: Path) -> None:
    app = dry_run("--max_restarts", "5", "--max_retries", "4", "--env", "A=1", log_dir=tmp_path)
    role = app.roles[0]
    assert role.max_retries == 4
    assert role.env["A"] == "1"
    assert role.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    found = torchrun_arguments(app, {})
    assert found.max_restarts == 5
    conf = dict(pair.split("=") for pair in found.rdzv_conf.split(","))
    assert int(conf["keep_alive_max_attempt"]) >= 3


def test_a_dollar_in_a_path_stays_a_dollar(tmp_path: Path) -> None:
    app = dry_run("--", "--note", "$HOME ${x}", log_dir=tmp_path)
    assert torchrun_arguments(app, {"HOME": "/root"}).training_script_args[-1] == "$HOME ${x}"


@pytest.mark.parametrize("environment", [{}, {"A": "1"}])
def test_ones_own_environment_is_not_changed(environment: dict[str, str]) -> None:
    before = dict(components.ENVIRONMENT)
    components.train(data="d", out="o", env=environment)
    assert before == components.ENVIRONMENT
    assert environment in ({}, {"A": "1"})


@pytest.mark.slow
def test_a_job_of_two_ranks_trains_through_torchx(planted: Dataset, tmp_path: Path) -> None:
    """The real thing: TorchX, bash, torchrun, two ranks, a checkpoint."""
    run = tmp_path / "run"
    flags = ["--epochs", "1", "--batch-size", "256"]
    with get_runner("test") as runner:
        handle = runner.run_component(
            f"{CHECKOUT / 'launch' / 'components.py'}:train",
            ["--data", str(planted.folder), "--out", str(run), "-j", "1x2", "--", *flags],
            scheduler="local_cwd",
            cfg={"log_dir": str(tmp_path / "logs")},
        )
        status = runner.wait(handle, wait_interval=0.2)
    assert status is not None
    logs = "\n".join(path.read_text() for path in (tmp_path / "logs").rglob("stderr*"))
    assert status.state.name == "SUCCEEDED", logs
    assert json.loads((run / "train.json").read_text())["world_size"] == 2
    assert len(checkpoints(run)) == 1
