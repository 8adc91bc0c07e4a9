"""The components, read back by TorchX, by bash and by the parsers of what they start."""

import inspect
import json
import socket
from argparse import Namespace
from pathlib import Path

import pytest
from torchx.components.component_test_base import ComponentTestCase
from torchx.runner import get_runner
from torchx.specs import AppDef, BindMount, macros

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from dat_rec.install import CHECKOUT
from launch import components
from launch.commands import go_on_command
from launch.resources import RESOURCES
from tests.launch.shell import host_options, spoken

COMPONENTS = ("train", "evaluate", "export", "recommend", "daily", "benchmark")


class TestComponents(ComponentTestCase):
    def test_torchx_accepts_signatures_and_docstrings(self) -> None:
        for name in COMPONENTS:
            self.validate(components, name)


def dry_run(component: str, *arguments: str | Path, scheduler: str = "local_cwd") -> AppDef:
    """The job that ``torchx run -s local_cwd launch/components.py:COMPONENT …`` would start."""
    with get_runner("test") as runner:
        info = runner.dryrun_component(
            f"{CHECKOUT / 'launch' / 'components.py'}:{component}",
            list(map(str, arguments)),
            scheduler=scheduler,
            cfg={"log_dir": "logs"},
        )
    assert info._app is not None
    return info._app


@pytest.fixture
def data(planted: Dataset, tmp_path: Path) -> Path:
    """A dataset in a folder whose name a shell would tear apart."""
    folder = tmp_path / "my $data"
    folder.symlink_to(planted.folder)
    return folder


def words(app: AppDef, **environment: str) -> list[str]:
    """What the job's command line comes to, after TorchX and bash."""
    role = app.roles[0]
    values = macros.Values(
        img_root="", app_id="job-1", replica_id="3", rank0_env="TORCHX_RANK0_HOST"
    )
    return spoken([role.entrypoint, *map(values.substitute, role.args)], environment)


def host_arguments(app: AppDef, **environment: str) -> Namespace:
    """What ``dat_rec.dist.host`` understands of it."""
    return host_options(words(app, **environment))


def test_training_on_one_host(data: Path, tmp_path: Path) -> None:
    app = dry_run("train", "--data", data, "--out", tmp_path / "run", "--", "--epochs", "2")
    found = host_arguments(app)
    assert (found.job, found.nnodes, found.nproc_per_node) == ("job-1", "1", 2)
    assert (found.max_restarts, found.replica, found.port) == (3, 3, 0)
    assert found.arguments == [
        *("train", "--data", str(data), "--out", str(tmp_path / "run")),
        *("--preset", "modern", "--epochs", "2"),
    ]


def test_relative_paths_become_absolute(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = host_arguments(dry_run("train", "--data", data.name, "--out", "run")).arguments
    assert arguments[2::2][:2] == [str(data), str(tmp_path / "run")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--warm-start", "old"), ("--warm-start", "{}/old")),
        (("--warm_start", "old"), ("--warm_start", "{}/old")),
        (("--warm-start=old",), ("--warm-start={}/old",)),
    ],
)
def test_paths_of_trainings_own_options_become_absolute_however_they_are_spelt(
    words: tuple[str, ...],
    expected: tuple[str, ...],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    app = dry_run("train", "--data", data, "--out", "run", "--", *words)
    found = host_arguments(app).arguments
    assert tuple(found[-len(words) :]) == tuple(word.format(tmp_path) for word in expected)


def test_several_hosts_meet_at_the_first(data: Path, tmp_path: Path) -> None:
    sizes = ("-j", "2:3x4", "--rdzv_port", "29600", "--max_restarts", "5", "--max_retries", "4")
    app = dry_run("train", "--data", data, "--out", tmp_path / "run", *sizes, "--env", "A=1,2,B=$C")
    role = app.roles[0]
    assert (role.min_replicas, role.num_replicas, role.max_retries) == (2, 3, 4)
    assert (role.env["A"], role.env["B"]) == ("1,2", "$C")
    found = host_arguments(app, TORCHX_RANK0_HOST="host-a")
    assert (found.nnodes, found.nproc_per_node, found.first) == ("2:3", 4, "host-a")
    assert (found.port, found.max_restarts) == (29_600, 5)
    assert host_arguments(app).first == "localhost"


def test_a_containers_paths_and_python_are_its_own(tmp_path: Path) -> None:
    mount = "type=bind,src=/mnt/data,dst=/data,readonly"
    job = ("--image", "dat_rec:1", "--mounts", mount)
    app = dry_run("train", "--data", "/data", "--out", "runs/a", *job, scheduler="local_docker")
    assert words(app)[0] == "python"
    assert host_arguments(app).arguments[1:5] == ["--data", "/data", "--out", "runs/a"]
    assert app.roles[0].mounts == [BindMount("/mnt/data", "/data", read_only=True)]


@pytest.mark.parametrize("name", RESOURCES)
def test_hosts_have_names(name: str, data: Path, tmp_path: Path) -> None:
    app = dry_run("train", "--data", data, "--out", tmp_path / "run", "--host", name)
    assert app.roles[0].resource == RESOURCES[name]


def test_numbers_change_the_named_host(data: Path, tmp_path: Path) -> None:
    host = ("--host", "8xh100", "--gpu", "4", "--memMB", "1000", "-j", "1x4")
    resource = dry_run("train", "--data", data, "--out", tmp_path / "run", *host).roles[0].resource
    assert (resource.cpu, resource.gpu, resource.memMB) == (192, 4, 1000)


def test_the_other_components(trained: Path, planted: Dataset, tmp_path: Path) -> None:
    data = planted.folder
    assert words(dry_run("evaluate", "--run", trained, "--data", data))[1:] == [
        *("-m", "dat_rec", "evaluate", "--run", str(trained), "--data", str(data)),
    ]
    out = tmp_path / "export"
    found = words(dry_run("export", "--run", trained, "--out", out, "--overwrite", "True"))
    assert found[1:] == [
        *("-m", "dat_rec", "export", "--run", str(trained), "--out", str(out), "--overwrite"),
    ]
    (trained / "export.json").write_text("{}")
    asked = ("--queries", data / "users.parquet", "--user_id", "user_id", "--k", "7")
    found = words(dry_run("recommend", "--export", trained, "--out", out, *asked))
    assert found[1:] == [
        *("-m", "dat_rec", "recommend", "--export", str(trained)),
        *("--queries", str(data / "users.parquet"), "--user-id", "user_id"),
        *("--out", str(out), "--k", "7"),
    ]
    rules = ("--", "--exclude-seen", "--quota", "category=2")
    found = words(dry_run("recommend", "--export", trained, "--out", out, *rules))
    assert found[-3:] == [*rules[1:]]
    found = words(dry_run("evaluate", "--run", trained, "--", "--blend-history"))
    assert found[-3:] == ["--run", str(trained), "--blend-history"]
    job = ("--root", tmp_path / "root", "--interactions", data, "--first", "1", "--last", "2")
    found = words(dry_run("daily", *job, "--", "--time", "when", "--", "--epochs", "2"))
    assert found[1:] == [
        *("-m", "dat_rec", "daily", "--root", str(tmp_path / "root"), "--from", "1", "--to", "2"),
        *("--interactions", str(data), "--keep", "0", "--time", "when", "--", "--epochs", "2"),
    ]
    found = words(dry_run("benchmark", "--script", "checkpoint", "--", "--smoke"))
    assert found[1:] == ["-m", "benchmarks.checkpoint", "--smoke"]


@pytest.mark.parametrize(
    ("component", "arguments"),
    [("evaluate", ()), ("export", ("--out", "OUT")), ("recommend", ("--out", "OUT"))],
)
def test_evaluation_and_delivery_run_on_ranks(
    component: str, arguments: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    (trained / "export.json").write_text("{}")
    option = "--export" if component == "recommend" else "--run"
    placed = [word.replace("OUT", str(tmp_path / "out")) for word in arguments]
    app = dry_run(component, option, trained, *placed, "-j", "3x2")
    role = app.roles[0]
    assert (role.min_replicas, role.num_replicas, role.max_retries) == (3, 3, 0)
    found = host_arguments(app)
    assert (found.nnodes, found.nproc_per_node, found.max_restarts) == ("3", 2, 0)
    assert found.arguments[:3] == [component, option, str(trained)]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What a component looks for in a run's folder."""
    run = tmp_path / "trained"
    run.mkdir()
    (run / "config.json").write_text("{}")
    return run


DAILY = ("daily", "--root", "OUT", "--interactions", "DATA")
TRAIN = ("train", "--data", "DATA", "--out", "OUT")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TRAIN, "-j", "0x1"), "-j 0x1: at least one host and one worker"),
        ((*TRAIN, "-j", "2x0"), "-j 2x0: at least one host and one worker"),
        ((*TRAIN, "-j", "3:2x1"), "-j 3:2x1: at least one"),
        ((*TRAIN, "-j", "two"), "-j two: hosts x workers on each"),
        ((*TRAIN, "-j", "4000x8"), "-j: 32000 ranks for 8128 examples"),
        ((*TRAIN, "--host", "h100"), "--host h100: unknown: one of cpu, cpu-16"),
        ((*TRAIN, "--host", "8xh100", "-j", "1x9"), "-j: 9 workers on hosts of 8 GPUs"),
        ((*TRAIN, "--cpu", "-1"), "--cpu -1: a number"),
        ((*TRAIN, "--env", "1A=2"), "--env 1A=2: names and values"),
        ((*TRAIN, "--env", "A"), "--env A: names and values"),
        ((*TRAIN, "--", "--warm-start", "OUT"), "--warm-start OUT holds no run"),
        ((*TRAIN, "--", "--topology", "OUT/t.json"), "--topology OUT/t.json is not there"),
        ((*TRAIN, "--mounts", "type=bind,src=/a,dst=/b"), "--mounts without --image"),
        ((*TRAIN, "--image", "i", "--mounts", "type=bind,src=/a"), "--mounts type=bind,src=/a: "),
        ((*TRAIN, "--rdzv_port", "65536"), "--rdzv_port 65536: a port is below 65536"),
        ((*TRAIN, "--max_restarts", "-1"), "--max_restarts -1: 0 or more"),
        ((*TRAIN, "--max_retries", "-1"), "--max_retries -1: 0 or more"),
        ((*TRAIN, "--name", "My_job"), "--name My_job: lowercase letters"),
        ((*TRAIN, "--", "--epochs", "0"), "--epochs is 0: it must be 1 or more"),
        ((*TRAIN, "--image", "i"), "--image i: -s local_cwd runs no containers"),
        (("train", "--data", "/nowhere", "--out", "OUT"), "/nowhere is not a prepared dataset"),
        (("train", "--data", "DATA", "--out", "RUN"), "RUN holds a run: pass --resume"),
        (("train", "--data", "DATA", "--out", "DATA/schema.json"), "is no folder: choose another"),
        (("evaluate", "--run", "OUT"), "OUT holds no run"),
        (("evaluate", "--run", "RUN", "--data", "OUT"), "OUT is not a prepared dataset"),
        (("export", "--run", "OUT", "--out", "OUT"), "OUT holds no run"),
        (
            ("export", "--run", "RUN", "--out", "OUT", "-j", "1:2x1"),
            "-j 1:2x1: the number of hosts",
        ),
        (("recommend", "--export", "RUN", "--out", "OUT"), "RUN holds no export"),
        (
            ("export", "--run", "RUN", "--out", "OUT", "--", "--since", "x"),
            "x: is no absolute path",
        ),
        ((*DAILY, "--first", "2", "--last", "1"), "the last day lies before the first"),
        ((*DAILY, "--first", "1", "--last", "2", "--", "--split", "none"), "--split: is what each"),
        ((*DAILY, "--first", "1", "--last", "2", "--", "--items", "x"), "x: is no absolute path"),
        ((*DAILY, "--first", "1", "--last", "2", "--", "--items", "OUT"), "OUT: no such file"),
        (("benchmark", "--script", "../x"), "--script ../x: no such script"),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    arguments: tuple[str, ...],
    message: str,
    planted: Dataset,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"DATA": str(planted.folder), "OUT": str(tmp_path / "out"), "RUN": str(trained)}

    def placed(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    before = sorted(tmp_path.rglob("*"))
    component, *words = arguments
    with pytest.raises(SystemExit) as ended:
        dry_run(component, *map(placed, words))
    assert ended.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "launch: " in line]
    assert len(said) == 1
    assert placed(message) in said[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_port_in_use_on_this_machine_is_refused_before_anything_is_started(
    planted: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("", 0)) as other, get_runner("test") as runner:
        port = other.getsockname()[1]
        job = ["--data", str(planted.folder), "--out", str(tmp_path / "run"), "-j", "2x1"]
        with pytest.raises(SystemExit) as ended:
            runner.run_component(
                f"{CHECKOUT / 'launch' / 'components.py'}:train",
                [*job, "--rdzv_port", str(port)],
                scheduler="local_cwd",
                cfg={"log_dir": str(tmp_path / "logs")},
            )
    assert ended.value.code == 2
    assert f"port {port} cannot be listened on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_slurm_needs_no_slurm(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    app = dry_run("train", "--data", data, "--out", tmp_path / "run", scheduler="slurm")
    assert app.roles[0].num_replicas == 1


def test_the_command_to_go_on_with_resumes() -> None:
    begun = "/bin/torchx run -s slurm c.py:train --data d --out o"
    go_on = "torchx run -s slurm c.py:train --data d --out o -- "
    assert go_on_command(begun.split()) == go_on + "--resume"
    more = f"{begun} -- --epochs 2 --overwrite".split()
    assert go_on_command(more) == go_on + "--epochs 2 --resume"
    daily = "torchx run -s slurm c.py:daily --root r -- --items i -- --batch-size 9"
    assert go_on_command(daily.split()) == daily
    assert go_on_command(["torchx", "daily", "--root", "r"]) == "torchx daily --root r"
    assert go_on_command(["pytest", "-q"]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1x2", "2x1"])
def test_a_job_of_two_ranks_trains_through_torchx(
    size: str, planted: Dataset, tmp_path: Path
) -> None:
    """The real thing: TorchX, bash, torchrun (of two hosts, one for each), a checkpoint."""
    run = tmp_path / "run"
    flags = ["--epochs", "1", "--batch-size", "256"]
    with get_runner("test") as runner:
        handle = runner.run_component(
            f"{CHECKOUT / 'launch' / 'components.py'}:train",
            ["--data", str(planted.folder), "--out", str(run), "-j", size, "--", *flags],
            scheduler="local_cwd",
            cfg={"log_dir": str(tmp_path / "logs")},
        )
        status = runner.wait(handle, wait_interval=0.2)
    assert status is not None
    logs = "\n".join(path.read_text() for path in (tmp_path / "logs").rglob("stderr*"))
    assert status.state.name == "SUCCEEDED", logs
    assert json.loads((run / "train.json").read_text())["world_size"] == 2
    assert len(checkpoints(run)) == 1


FOLDERS = ("data", "out", "run", "export", "root", "interactions")


ADDRESSES = {("train", "data"), ("evaluate", "data"), ("export", "data"), ("export", "out")}
ADDRESSES |= {("recommend", "export"), ("recommend", "out"), ("daily", "interactions")}
"""What may lie in a store."""


@pytest.mark.parametrize("image", ["", "registry/dat_rec"])
def test_an_address_in_place_of_a_local_folder_is_refused(
    image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "export.json"):
        (tmp_path / name).touch()
    seen = set()
    for name in COMPONENTS:
        component = getattr(components, name)
        taken = {k: v for k, v in inspect.signature(component).parameters.items() if k in FOLDERS}
        needed = {k: str(tmp_path) for k, v in taken.items() if v.default is v.empty}
        for folder in taken:
            seen.add((name, folder))
            days = {"first": "1", "last": "2"} if name == "daily" else {}
            values = needed | days | {folder: "gs://bucket/x"}
            if (name, folder) in ADDRESSES:
                if image:
                    assert "gs://bucket/x" in " ".join(
                        component(**values, image=image).roles[0].args
                    )
                continue
            with pytest.raises(SystemExit) as stop:
                component(**values, image=image)
            assert stop.value.code == 2
            assert "error: gs://bucket/x: gs is no local disk" in capsys.readouterr().err
    assert len(seen) == 11
