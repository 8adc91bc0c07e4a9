"""Manifests for Kubernetes: every field known, the command and the environment as given.

No cluster is there: what Kubernetes and Kubeflow do with a manifest before a process starts
(variables filled in, a TrainJob laid over its runtime) is done here by hand.
"""

import re
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from torch.distributed.run import config_from_args, parse_args
from torchx.runner import get_runner

from dat_rec.dist.host import _parser, torchrun
from dat_rec.dist.host_address import Meeting
from dat_rec.install import CHECKOUT
from launch import components, kubernetes
from tests.launch.shell import host_options, spoken
from tests.launch.strict import FREE, TRAINER, Manifest, RefusedError, check, check_pod

MOUNTS = "type=volume,src=data,dst=/data,readonly,type=bind,src=/mnt/runs,dst=/runs"
POD = ("--image", "registry.example/dat_rec:1", "--mounts", MOUNTS)
PLACES = ("--data", "/data/d", "--out", "/runs/r")
TRAIN = ("train", *POD, "--host", "8xh100", "-j", "2x8", *PLACES)
ROADS = {"trainjob": (), "volcano": ("--queue", "gpus")}
HARD = {"A": "1,2", "B": 'it\'s "so"', "C": "$HOME $$ $(PYTHONUNBUFFERED) ${app_id}", "D": "1e3"}
HARD_ENV = ",".join(f"{name}={value}" for name, value in HARD.items())
NOTES = ("--note", "$(HOME) $$HOME `id` it's", "--more", "a, b; c")


def render(
    capsys: pytest.CaptureFixture[str], road: str, *words: str, options: tuple[str, ...] = ()
) -> list[Manifest]:
    """What ``python -m launch.kubernetes ROAD …`` prints, read back."""
    assert kubernetes.main([road, *ROADS[road], *options, *words]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """The templates of a job's pods, one for each host, as its controllers make them."""
    if len(manifests) == 1:
        return [task["template"] for task in manifests[0]["spec"]["tasks"]]
    runtime, job = (manifest["spec"] for manifest in manifests)
    trainer = job["trainer"]
    (replicated,) = runtime["template"]["spec"]["replicatedJobs"]
    assert replicated["template"]["metadata"]["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    found = []
    for number in range(trainer["numNodes"]):
        template = deepcopy(replicated["template"]["spec"]["template"])
        (container,) = template["spec"]["containers"]
        assert container["name"] == "node"
        container |= {key: trainer[key] for key in ("image", "command", "args")}
        container["resources"] = trainer["resourcesPerNode"]
        told = kubeflow_says(manifests[1]["metadata"]["name"], trainer["numNodes"], number)
        container["env"] = trainer["env"] + [{"name": k, "value": v} for k, v in told.items()]
        found.append(template)
    return found


def kubeflow_says(name: str, nodes: int, number: int) -> dict[str, str]:
    """Variables that Kubeflow's torch policy sets in the pod of a node."""
    return {
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": "auto",
        "PET_NODE_RANK": str(number),
        "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
        "PET_MASTER_PORT": "29500",
    }


def filled_in(text: str, variables: dict[str, str]) -> str:
    """As Kubernetes does it: ``$(NAME)`` of a known name, and ``$$`` for a dollar."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def environment(template: Manifest) -> dict[str, str]:
    """What a pod's process finds in its environment."""
    found: dict[str, str] = {}
    for variable in template["spec"]["containers"][0]["env"]:
        found[variable["name"]] = filled_in(variable["value"], found)
    return found


def started(template: Manifest, volcano_hosts: str = "") -> list[str]:
    """The words of the process that a pod's shell becomes."""
    variables = environment(template)
    container = template["spec"]["containers"][0]
    words = [filled_in(word, variables) for word in container["command"]]
    words += [filled_in(word, variables) for word in container.get("args", [])]
    return spoken(words, variables | {"VC_TRAIN_0_HOSTS": volcano_hosts})


def host_arguments(template: Manifest, volcano_hosts: str = "") -> Namespace:
    """What ``dat_rec.dist.host`` understands."""
    words = started(template, volcano_hosts)
    assert words[0] == "python"
    return host_options(words)


COMPONENTS: dict[str, tuple[str, ...]] = {
    "train": (*TRAIN, "--env", HARD_ENV, "--", "--epochs", "1"),
    "small": ("train", *POD, *PLACES, "-j", "1x1", "--memMB", "1024", "--max_retries", "0"),
    "evaluate": ("evaluate", *POD, "--run", "/runs/r", "--data", "/data/d"),
    "export": ("export", *POD, "--run", "/runs/r", "--out", "/runs/e"),
    "daily": (
        *("daily", *POD, "--root", "/runs/r", "--interactions", "/data/log"),
        *("--first", "2026-11-01", "--last", "2026-11-02"),
    ),
    "benchmark": ("benchmark", *POD, "--", "--smoke"),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_every_field_is_known(
    component: str, road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = render(capsys, road, *COMPONENTS[component])
    for manifest in manifests:
        check(manifest)
    for template in pods(manifests):
        check_pod(template)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field whose name Kubernetes and its controllers have fixed."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not (path and path[-1] in FREE):
                yield (*path, key)
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from places(value, (*path, number))


def inside(node: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        node = node[step]
    return node


def misspelt(manifest: Manifest, path: tuple[Any, ...]) -> Iterator[Manifest]:
    *above, key = path
    for name in (key[:-1], key + "s", key.swapcase()):
        wrong = deepcopy(manifest)
        fields = inside(wrong, tuple(above))
        fields[name] = fields.pop(key)
        yield wrong


def of_another_type(manifest: Manifest, path: tuple[Any, ...]) -> Iterator[Manifest]:
    *above, key = path
    for value in ("text", 7, True, [{}], {"a": {}}):
        if not isinstance(value, type(inside(manifest, path))):
            wrong = deepcopy(manifest)
            inside(wrong, tuple(above))[key] = value
            yield wrong


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("mistake", [misspelt, of_another_type])
def test_a_mistake_in_any_field_is_found(
    mistake: Any, road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made, passed = 0, []
    for manifest in render(capsys, road, *TRAIN, "-j", "1x8", options=("--queue", "gpus")):
        for path in places(manifest):
            for wrong in mistake(manifest, path):
                made += 1
                try:
                    check(wrong)
                except RefusedError:
                    continue
                passed.append(path)
    assert passed == []
    assert made > 30


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "tasks", 0, "policies", 0, "action"), "Terminate"),
        (("spec", "tasks", 0, "policies", 0, "exitCode"), 0),
        (("spec", "tasks", 0, "policies", 1, "event"), "PodFail"),
        (("spec", "tasks", 0, "policies", 1, "exitCode"), 3),
        (("spec", "tasks", 0, "template", "spec", "restartPolicy"), 1),
        (("apiVersion",), "batch/v1"),
    ],
)
def test_wrong_values_are_found_too(
    path: tuple[Any, ...], value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest,) = render(capsys, "volcano", *TRAIN)
    inside(manifest, path[:-1])[path[-1]] = value
    with pytest.raises(RefusedError):
        check(manifest)


def test_both_roads_start_the_command_of_the_component(capsys: pytest.CaptureFixture[str]) -> None:
    words = (*TRAIN, "--rdzv_port", "29600", "--", "--epochs", "1", "--examples.bad-ids", "unknown")
    found: dict[str, list[Namespace]] = {}
    for road in ROADS:
        manifests = render(capsys, road, *words)
        name = manifests[-1]["metadata"]["name"]
        host = {"trainjob": f"{name}-node-0-0.{name}", "volcano": f"{name}-train-0-0.{name}"}[road]
        found[road] = [host_arguments(pod, volcano_hosts=host) for pod in pods(manifests)]
        assert {options.job for options in found[road]} == {name}
        assert [options.replica for options in found[road]] == [0, 1]
        # TorchX gives Volcano's first host this name; dat_rec.dist.host does not believe it.
        assert [options.first for options in found[road]] in ([host] * 2, ["localhost", host])
    for options in found["trainjob"] + found["volcano"]:
        assert (options.nnodes, options.nproc_per_node, options.port) == ("2", 8, 29_600)
        assert options.max_restarts == 3
        assert options.arguments == [
            *("train", "--data", "/data/d", "--out", "/runs/r", "--preset", "modern"),
            *("--epochs", "1", "--examples.bad-ids", "unknown"),
        ]


@pytest.mark.parametrize("road", ROADS)
def test_words_and_variables_reach_the_process_as_they_were_given(
    road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("benchmark", *POD, "--env", HARD_ENV, "--", *NOTES)
    (template,) = pods(render(capsys, road, *words))
    assert started(template) == ["python", "-m", "benchmarks.train_step", *NOTES]
    found = environment(template)
    assert {name: found[name] for name in HARD} == HARD
    assert found["PYTHONUNBUFFERED"] == "1"


@pytest.mark.parametrize("value", ["1e3", "y", "0o17", "1_0.5e+3", "no", "0x1F", "null", "~"])
@pytest.mark.parametrize("road", ROADS)
def test_text_that_readers_of_yaml_might_take_for_something_else_is_quoted(
    road: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kubernetes.main([road, *ROADS[road], *TRAIN, "--env", f"A=x,B={value}"])
    printed = capsys.readouterr().out
    assert re.search(rf"""name: "?B"?\n +value: (["']){re.escape(value)}\1\n""", printed)


@pytest.mark.parametrize("road", ROADS)
def test_the_command_to_go_on_with_resumes_on_the_same_road(
    road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [road, *ROADS[road], *TRAIN, "--", "--epochs", "2", "--overwrite"]
    kubernetes.main(given)
    template = pods(list(yaml.safe_load_all(capsys.readouterr().out)))[0]
    again, _, then = environment(template)["DAT_REC_COMMAND"].partition(" | ")
    assert shlex.split(again) == ["python", "-m", "launch.kubernetes", *given[:-1], "--resume"]
    assert then == "kubectl apply -f -"


def test_kubeflows_variables_change_nothing_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are defaults of torchrun's options, and ours are given, or not read with our store."""
    options = _parser().parse_args(
        ["--job", "a", "--nnodes", "2", "--nproc-per-node", "8", "--first", "b", "--", "train"]
    )
    # torchrun keeps its logs in a new folder each time.
    monkeypatch.setenv("PET_LOG_DIR", "logs")
    meeting = Meeting("10.0.0.1:20000", "10.0.0.2", "eth0")
    words = torchrun(options, meeting, first=False)[3:]
    before = config_from_args(parse_args(words))
    for name, value in (kubeflow_says("b", 5, 4) | {"PET_NPROC_PER_NODE": "3"}).items():
        monkeypatch.setenv(name, value)
    told = config_from_args(parse_args(words))
    assert re.sub(r"0x\w+|none_\w+", "", str(told)) == re.sub(r"0x\w+|none_\w+", "", str(before))
    config = told[0]
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "10.0.0.1:20000")
    assert config.local_addr == "10.0.0.2"


@pytest.mark.parametrize("road", ROADS)
def test_a_pod_has_what_the_host_was_said_to_have(
    road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for template in pods(render(capsys, road, *TRAIN)):
        (container,) = template["spec"]["containers"]
        wanted = {"cpu": "192", "memory": "2000000M", "nvidia.com/gpu": "8"}
        assert container["resources"] == {"requests": wanted, "limits": wanted}
        volumes = {volume.pop("name"): volume for volume in deepcopy(template["spec"]["volumes"])}
        there = {
            mount["mountPath"]: (volumes[mount["name"]], mount.get("readOnly", False))
            for mount in container["volumeMounts"]
        }
        assert there["/dev/shm"] == ({"emptyDir": {"medium": "Memory"}}, False)
        assert there["/runs"] == ({"hostPath": {"path": "/mnt/runs"}}, False)
        volume, read_only = there["/data"]
        assert volume["persistentVolumeClaim"]["claimName"] == "data"
        assert read_only


@pytest.mark.parametrize("road", ROADS)
def test_small_hosts_get_the_memory_that_they_ask_for(
    road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """TorchX would ask for 1024 MB less: none."""
    (template,) = pods(render(capsys, road, *COMPONENTS["small"]))
    wanted = {"cpu": "2", "memory": "1024M"}
    resources = template["spec"]["containers"][0]["resources"]
    assert resources == {"requests": wanted, "limits": wanted}


@pytest.mark.parametrize("road", ROADS)
def test_pods_run_as_the_images_user_without_rights(
    road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (CHECKOUT / "launch" / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):(\d+)$", recipe, re.MULTILINE)
    for template in pods(render(capsys, road, *TRAIN, options=("--grace-s", "900"))):
        spec = template["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
        (container,) = spec["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert spec["automountServiceAccountToken"] is False
        assert spec["terminationGracePeriodSeconds"] == 900
        assert spec["restartPolicy"] == "Never"


def test_a_trainjob_starts_again_but_not_after_bad_input(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime, _ = render(capsys, "trainjob", *TRAIN, "--max_retries", "5")
    job_set = runtime["spec"]["template"]["spec"]
    assert job_set["failurePolicy"]["maxRestarts"] == 5
    (job,) = (each["template"]["spec"] for each in job_set["replicatedJobs"])
    bad_input, disrupted = job["podFailurePolicy"]["rules"]
    assert (bad_input["action"], bad_input["onExitCodes"]["values"]) == ("FailJob", [2])
    assert disrupted["action"] == "Ignore"
    (rule,) = job_set["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


@pytest.mark.parametrize(("retries", "then"), [("5", "RestartJob"), ("0", None)])
def test_a_volcano_job_starts_again_but_not_after_bad_input(
    retries: str, then: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = render(capsys, "volcano", *TRAIN, "--max_retries", retries)
    assert job["spec"]["maxRetry"] == int(retries)

    def action(task: Manifest, event: str, code: int) -> str | None:
        """The first policy of the task that fits, then of the job: as Volcano chooses."""
        for policy in task["policies"] + job["spec"].get("policies", []):
            if policy.get("event") == event or policy.get("exitCode") == code:
                return str(policy["action"])
        return None

    for task in job["spec"]["tasks"]:
        assert action(task, "PodFailed", 2) == "TerminateJob"
        assert action(task, "PodFailed", 1) == then
        assert action(task, "PodEvicted", 143) == then


def test_an_elastic_volcano_job_begins_and_ends_with_its_least(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (job,) = render(capsys, "volcano", *TRAIN, "-j", "1:3x8")
    check(job)
    spec = job["spec"]
    assert (spec["minAvailable"], spec["minSuccess"]) == (1, 1)
    assert [task["minAvailable"] for task in spec["tasks"]] == [1, 0, 0]
    assert host_arguments(pods([job])[2], "host").nnodes == "1:3"
    (fixed,) = render(capsys, "volcano", *TRAIN)
    assert fixed["spec"]["minAvailable"] == 2
    assert "minSuccess" not in fixed["spec"]


@pytest.mark.parametrize("road", ROADS)
def test_names_are_new_each_time_and_leave_room_for_those_of_pods(
    road: str, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = "x" * kubernetes.LONGEST
    names = set()
    for _ in range(4):
        manifests = render(capsys, road, *TRAIN, "--name", longest)
        name = manifests[-1]["metadata"]["name"]
        names.add(name)
        assert name.startswith(f"{longest}-")
        # A JobSet's pods: NAME-node-0-HOST-XXXXX; Volcano's: NAME-train-HOST-0.
        longest_pod = max(f"{name}-node-0-999-abcde", f"{name}-train-999-0", key=len)
        assert len(longest_pod) <= 63
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(names) == 4


def test_namespace_queue_and_runtime_stand_where_they_belong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--namespace", "ml", "--queue", "gpus", "--runtime", "shared")
    runtime, job = render(capsys, "trainjob", *TRAIN, options=options)
    check(job)
    assert runtime["metadata"]["name"] == "shared"
    assert {runtime["metadata"]["namespace"], job["metadata"]["namespace"]} == {"ml"}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    reference = {"apiGroup": TRAINER.partition("/")[0], "kind": "TrainingRuntime", "name": "shared"}
    assert job["spec"]["runtimeRef"] == reference
    runtime, job = render(capsys, "trainjob", *TRAIN)
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]
    (volcano,) = render(capsys, "volcano", *TRAIN, options=("--namespace", "ml"))
    assert (volcano["metadata"]["namespace"], volcano["spec"]["queue"]) == ("ml", "gpus")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trainjob", *TRAIN, "-j", "1:2x8"), "-j 1:2x…: a TrainJob has a fixed size"),
        (("trainjob", *TRAIN, "--env", "PET_NNODES=3"), "--env PET_NNODES: Kubeflow sets it"),
        (("trainjob", *TRAIN, "--env", "A"), "--env A: names and values"),
        (("trainjob", "train", *PLACES), "--image: pods run in a container"),
        (("trainjob", *TRAIN, "--name", "x" * 31), "at most 30 letters"),
        (("trainjob", "--grace-s", "0", *TRAIN), "--grace-s 0: 1 or more"),
        (("trainjob", "--namespace", "My", *TRAIN), "--namespace My: lowercase letters"),
        (("trainjob", "--queue", "a_b", *TRAIN), "--queue a_b: lowercase letters"),
        (("trainjob", *TRAIN, "--mounts", "type=device,src=/dev/x"), "a privileged pod"),
        (("trainjob", *TRAIN, "--out", "/data/r"), "--out /data/r: the mount /data is readonly"),
        (("trainjob", *TRAIN, "--out", "runs/r"), "--out runs/r: on none of --mounts"),
        (("trainjob", *TRAIN, "--out", "/runs2/r"), "--out /runs2/r: on none of --mounts"),
        (("trainjob", "evaluate", *POD, "--run", "/data/r"), "--run /data/r: the mount /data"),
        (("trainjob", *TRAIN, "--", "--epochs", "0"), "--epochs is 0"),
        (("volcano", *TRAIN), "--queue: Volcano wants one"),
        (("volcano", "--queue", "q", "--runtime", "r", *TRAIN), "--runtime r: trainjob has one"),
    ],
)
def test_what_would_fail_later_is_refused_in_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        kubernetes.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("launch: error: ")
    assert message in line


def test_a_run_on_a_readonly_mount_can_be_exported(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("export", *POD, "--run", "/data/r", "--out", "/runs/e")
    assert len(render(capsys, "trainjob", *words)) == 2


def test_the_command_prints_yaml_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.kubernetes", "volcano", "--queue", "gpus", *TRAIN],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [each["kind"] for each in yaml.safe_load_all(done.stdout)] == ["Job"]
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore:Cannot determine resource instance type")
def test_aws_batch_by_dry_run() -> None:
    """While TorchX has it. What it asks AWS for, it asks as the job is submitted."""
    app = components.train(data="/data/d", out="/out", image="i:1", j="2x8", host="8xh100")
    with get_runner("test") as runner:
        info = runner.dryrun(app, scheduler="aws_batch", cfg={"queue": "q"})
    nodes = info.request.job_def["nodeProperties"]
    assert nodes["numNodes"] == 2
    (group,) = nodes["nodeRangeProperties"]
    assert group["container"]["image"] == "i:1"
    # Set by AWS on every node, the address only where it is not the node's own.
    node = {"AWS_BATCH_JOB_NODE_INDEX": "1"}
    first = {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1"}
    command = group["container"]["command"]
    for variables, name in ((node | first, "10.0.0.1"), (node, "localhost")):
        options = host_options(spoken(command, variables))
        assert (options.replica, options.first) == (1, name)
        assert options.arguments[:5] == ["train", "--data", "/data/d", "--out", "/out"]
