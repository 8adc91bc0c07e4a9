"""Manifests of ``launch.kubernetes``, read by the models of those that take them, and by bash.

No cluster is here. What can be known without one is whether every field exists, stands where it
belongs and has its type; and what the pods' command comes to.
"""

import copy
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml
from kubeflow_trainer_api import models
from torchx.runner import get_runner
from torchx.specs import macros

from dat_rec import host
from dat_rec.host import _parser
from dat_rec.install import CHECKOUT
from launch import kubernetes
from tests.launch.test_components import dry_run

Manifest = dict[str, Any]
JOB = (
    *("train", "--image", "registry.example/dat_rec:1", "--data", "/data/d", "--out", "/data/run"),
    *("-j", "2x8", "--host", "8xh100", "--mounts"),
    "type=volume,src=data,dst=/data,type=bind,src=/mnt/raw,dst=/raw,readonly",
)
ROADS = ("trainjob", "volcano")


def render(road: str, *arguments: str, options: tuple[str, ...] = ()) -> list[Manifest]:
    """What the command prints, as kubectl would read it."""
    queue = ("--queue", "default") if road == "volcano" else ()
    return list(yaml.safe_load_all(printed(road, *queue, *options, *arguments)))


def printed(*arguments: str) -> str:
    capture = pytest.MonkeyPatch()
    lines: list[str] = []
    with capture.context() as patch:
        patch.setattr(kubernetes, "print", lambda text, end: lines.append(text + end), False)
        assert kubernetes.main(arguments) == 0
    return "".join(lines)


# ---- every field ----


class RefusedError(Exception):
    """A manifest that no cluster would take as it is meant."""


def check(manifest: Manifest) -> None:
    """Refuse fields that are unknown, misplaced or of a wrong type."""
    by_kind = {
        "trainer.kubeflow.org/v1alpha1 TrainJob": check_trainjob,
        "trainer.kubeflow.org/v1alpha1 TrainingRuntime": check_runtime,
        "batch.volcano.sh/v1alpha1 Job": check_volcano,
    }
    kind = f"{manifest.get('apiVersion')} {manifest.get('kind')}"
    if kind not in by_kind:
        raise RefusedError(f"{kind}: unknown")
    by_kind[kind](manifest)


def check_trainjob(manifest: Manifest) -> None:
    check_model(models.TrainerV1alpha1TrainJob, manifest)


def check_runtime(manifest: Manifest) -> None:
    check_model(models.TrainerV1alpha1TrainingRuntime, manifest)
    for job in manifest["spec"]["template"]["spec"]["replicatedJobs"]:
        check_core({"apiVersion": "batch/v1", "kind": "Job", **job["template"]})
        check_pod(job["template"]["spec"]["template"])


def check_model(model: Any, manifest: Manifest) -> None:
    """By Kubeflow's own models: they drop what they do not know."""
    try:
        back = model.from_dict(manifest).to_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise RefusedError(str(error)) from error
    if back != manifest:
        raise RefusedError(f"unknown fields: {manifest} became {back}")


def check_pod(template: Manifest) -> None:
    check_core({"apiVersion": "v1", "kind": "Pod", **template})


def check_core(manifest: Manifest) -> None:
    """By Kubernetes' own schemas, which here forbid fields that they do not know."""
    version = kubernetes_validate.utils.latest_version()
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise RefusedError(error.message) from error


@pytest.fixture(autouse=True)
def _schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", schema_contents)


schema_contents = cache(kubernetes_validate.utils.schema_contents)

POLICIES = [
    {
        "action?": {"AbortJob", "RestartJob", "RestartTask", "TerminateJob", "CompleteJob"},
        "event?": {"PodFailed", "PodEvicted", "JobUnknown", "TaskCompleted", "OutOfSync", "*"},
        "exitCode?": int,
    }
]
VOLCANO = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str},
    "spec": {
        "schedulerName": str,
        "queue": str,
        "minAvailable": int,
        "maxRetry": int,
        "plugins": {"svc": [str], "env": [str]},
        "tasks": [
            {
                "name": str,
                "replicas": int,
                "minAvailable": int,
                "maxRetry?": int,
                "template": check_pod,
                "policies": POLICIES,
            }
        ],
    },
}
"""Of the fields of batch.volcano.sh/v1alpha1 those that we use, with their types; ?: not always."""


def check_volcano(manifest: Manifest) -> None:
    check_shape(manifest, VOLCANO, "")


def check_shape(value: Any, shape: Any, where: str) -> None:
    if shape is check_pod:
        check_pod(value)
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise RefusedError(f"{where}: no object")
        unknown = value.keys() - {name.rstrip("?") for name in shape}
        missing = {name for name in shape if not name.endswith("?")} - value.keys()
        if unknown or missing:
            raise RefusedError(f"{where}: unknown {unknown}, missing {missing}")
        for name, inner in shape.items():
            if name.rstrip("?") in value:
                check_shape(value[name.rstrip("?")], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise RefusedError(f"{where}: no list")
        for item in value:
            check_shape(item, shape[0], where)
    elif isinstance(shape, set):
        if not isinstance(value, str) or value not in shape:
            raise RefusedError(f"{where}: {value}: none of {shape}")
    elif type(value) is not shape:
        raise RefusedError(f"{where}: {value!r}")


JOBS = {
    "hosts with GPUs": JOB,
    "one process": ("evaluate", "--run", "/r", "--image", "i", "--env", "A=1", "--memMB", "9000"),
    "export": ("export", "--run", "/r", "--out", "/e", "--image", "i"),
    "benchmark": ("benchmark", "--image", "i"),
    "no retries": (*JOB, "--max_retries", "0"),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("road", ROADS)
def test_every_field_is_known_where_it_stands(road: str, job: tuple[str, ...]) -> None:
    for manifest in render(road, *job):
        check(manifest)


def test_an_elastic_volcano_job_is_known_too() -> None:
    (job,) = render("volcano", *JOB, "-j", "2:3x8")
    check(job)
    assert job["spec"]["minAvailable"] == 2
    assert [task["minAvailable"] for task in job["spec"]["tasks"]] == [1, 1, 0]


DATA = {"labels", "annotations", "requests", "limits", "nodeSelector"}
"""Maps whose keys are data: Kubernetes takes any."""


def mutations(value: Any, within: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """``value`` with one key misspelt, or one scalar of another type, and the place of it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not DATA & set(within[-1:]):
                yield f".{key} renamed", {f"{k}x" if k == key else k: v for k, v in value.items()}
            for place, changed in mutations(inner, (*within, key)):
                yield f".{key}{place}", {**value, key: changed}
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            for place, changed in mutations(inner, within):
                yield f"[{number}]{place}", [*value[:number], changed, *value[number + 1 :]]
    else:
        others: list[Any] = [[], 7 if isinstance(value, str) else "x"]
        if {"requests", "limits"} & set(within):  # a quantity may be a number
            others.remove(7)
        for other in others:
            yield f" = {other!r}", other


@pytest.mark.parametrize("road", ROADS)
def test_each_misspelt_key_and_each_wrong_type_is_refused(road: str) -> None:
    passed, tried = [], 0
    for manifest in render(road, *JOB, options=("--queue", "q")):
        before = copy.deepcopy(manifest)
        for place, mutant in mutations(manifest):
            tried += 1
            try:
                check(mutant)
                passed.append(f"{manifest['kind']}{place}")
            except RefusedError:
                pass
        assert manifest == before
    assert passed == []
    assert tried > 200


def test_a_field_in_a_wrong_place_is_refused() -> None:
    runtime, job = render("trainjob", *JOB)
    job_set = runtime["spec"]["template"]["spec"]
    job_set["backoffLimit"] = job_set["replicatedJobs"][0]["template"]["spec"].pop("backoffLimit")
    with pytest.raises(RefusedError):
        check(runtime)
    job["spec"]["numNodes"] = job["spec"]["trainer"].pop("numNodes")
    with pytest.raises(RefusedError):
        check(job)
    (volcano,) = render("volcano", *JOB)
    volcano["spec"]["restartPolicy"] = "Never"
    with pytest.raises(RefusedError):
        check(volcano)


# ---- what the pods run ----


def kubelet(text: str, variables: dict[str, str]) -> str:
    """What becomes of a command's word or a variable's value: $(NAME) filled in, $$ made one $."""

    def filled(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", filled, text)


def pods(manifests: list[Manifest]) -> list[tuple[list[str], dict[str, str]]]:
    """Command and variables of each pod, as its first process finds them."""
    if len(manifests) == 1:
        tasks = manifests[0]["spec"]["tasks"]
        (*containers,) = (task["template"]["spec"]["containers"][0] for task in tasks)
        name = manifests[0]["metadata"]["name"]
        cluster = {"VC_TRAIN_0_HOSTS": f"{name}-train-0-0.{name}"}
        told = [cluster] * len(containers)
    else:
        trainer, name = manifests[1]["spec"]["trainer"], manifests[1]["metadata"]["name"]
        count = trainer["numNodes"]
        containers = [trainer] * count
        told = [
            {
                "PET_NNODES": str(count),
                "PET_NPROC_PER_NODE": "8",
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
                "PET_MASTER_PORT": "29400",
            }
            for rank in range(count)
        ]
    found = []
    for container, cluster in zip(containers, told, strict=True):
        ours = {item["name"]: item["value"] for item in container["env"]}
        variables = {"HOME": "/filled/in"} | cluster
        variables |= {key: kubelet(value, variables) for key, value in ours.items()}
        words = [*container["command"], *container.get("args", [])]
        found.append(([kubelet(word, variables) for word in words], variables))
    return found


def words(command: list[str], variables: dict[str, str]) -> list[str]:
    """What bash makes of it."""
    assert command[:2] == ["bash", "-c"]
    script = command[2].replace("exec ", "printf '%s\\0' ", 1)
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, check=True)
    return done.stdout.decode().rstrip("\0").split("\0")


def parsed(command: list[str], variables: dict[str, str]) -> Namespace:
    found = words(command, variables)
    assert found[:3] == ["python", "-m", "dat_rec.host"]
    return _parser().parse_args(found[3:])


ODD = "/data/my $(HOME) $$ ${app_id} 'd'"


@pytest.mark.parametrize("road", ROADS)
def test_each_pod_runs_the_components_own_command(road: str) -> None:
    job = (*JOB, "--data", ODD, "--rdzv_port", "29600", "--", "--epochs", "2")
    app = dry_run(job[0], *job[1:], scheduler="local_docker")
    values = macros.Values(img_root="", app_id="-", replica_id="0", rank0_env="FIRST")
    script = values.substitute(app.roles[0].args[1])
    expected = vars(parsed(["bash", "-c", script], {}))
    assert expected["arguments"][2] == ODD

    manifests = render(road, *job)
    name = manifests[-1]["metadata"]["name"]
    for number, (command, variables) in enumerate(pods(manifests)):
        found = vars(parsed(command, variables))
        first = f"{name}-{'node-0-0' if road == 'trainjob' else 'train-0-0'}.{name}"
        if road == "volcano" and number == 0:
            first = "localhost"
        assert found == expected | {"job": name, "replica": number, "first": first}
    assert number == 1


@pytest.mark.parametrize("road", ROADS)
def test_variables_arrive_as_they_were_given(road: str) -> None:
    given = {
        "A": "a,b;c",
        "B": 'it\'s "x" $HOME $$ $(HOME) ${app_id} $$(HOME)',
        "C": "1e3",
        "D": "yes",
        "E": "y",
        "F": "é: #x",
        "G": "0o17",
    }
    text = ",".join(f"{key}={value}" for key, value in given.items())
    for _, variables in pods(render(road, *JOB, "--env", text)):
        assert {key: variables[key] for key in given} == given


@pytest.mark.parametrize("road", ROADS)
def test_no_text_looks_like_a_number_to_other_readers_of_yaml(road: str) -> None:
    queue = ("--queue", "q")
    text = printed(road, *queue, *JOB, "--env", "A=1e3,B=0o17,C=y,D=1_0,E=.5e1,F=N,G=1e-3")

    def scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
        if isinstance(node, yaml.ScalarNode):
            yield node
        else:
            for child in node.value:
                for inner in child if isinstance(child, tuple) else (child,):
                    yield from scalars(inner)

    plain = [
        node.value
        for document in yaml.compose_all(text)
        for node in scalars(document)
        if node.style is None and node.tag.endswith(":str")
    ]
    assert "Memory" in plain
    # kubectl's: 1e3 and 0o17 are numbers, y and N truth values.
    assert [value for value in plain if re.fullmatch(r"[-+.\d].*|[yYnN]|", value)] == []


def test_torchrun_runs_the_same_with_kubeflows_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed import run

    options = _parser().parse_args(
        ["--job", "a", "--nnodes", "3", "--nproc-per-node", "2", "--", "train"]
    )
    meeting = host.Meeting("10.0.0.1:20000", "10.0.0.2", "eth0")
    command = host.torchrun(options, meeting, first=False)[3:]

    def understood(words: list[str]) -> tuple[dict[str, Any], object]:
        config, *rest = run.config_from_args(run.parse_args(words))
        logs = {"logs_specs": None}  # an object of its own each time
        return vars(config) | logs, rest

    alone = understood(command)
    assert (alone[0]["min_nodes"], alone[0]["nproc_per_node"]) == (3, 2)
    theirs = dict(zip(kubernetes.KUBEFLOWS, ("7", "5", "1", "elsewhere", "1234"), strict=True))
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    assert understood(command) == alone
    assert understood(["-m", "x"])[0]["min_nodes"] == 7


# ---- what the cluster does with them ----


def runtime_job(runtime: Manifest) -> Manifest:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    # Kubeflow takes no other number; the pods' is numNodes.
    assert (job["name"], job["replicas"]) == ("node", 1)
    labels = job["template"]["metadata"]["labels"]
    assert labels == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    found: Manifest = job["template"]["spec"]
    return found


def pod_specs(manifests: list[Manifest]) -> list[Manifest]:
    if len(manifests) == 1:
        return [task["template"]["spec"] for task in manifests[0]["spec"]["tasks"]]
    return [runtime_job(manifests[0])["template"]["spec"]]


def test_the_trainjob_refers_to_its_runtime() -> None:
    queue = ("--queue", "team-a", "--namespace", "research")
    runtime, job = render("trainjob", *JOB, options=queue)
    for manifest in (runtime, job):
        assert manifest["metadata"]["namespace"] == "research"
    assert job["spec"]["runtimeRef"]["kind"] == runtime["kind"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    # By its name Kubeflow finds the container that it tells where it stands.
    (container,) = runtime_job(runtime)["template"]["spec"]["containers"]
    assert container["name"] == "node"

    runtime, job = render("trainjob", *JOB, options=("--runtime", "dat-rec"))
    assert runtime["metadata"]["name"] == job["spec"]["runtimeRef"]["name"] == "dat-rec"
    assert job["metadata"]["name"].startswith("dat-rec-train-")


@pytest.mark.parametrize("road", ROADS)
def test_each_submission_has_a_name_of_its_own_that_pods_can_bear(road: str) -> None:
    longest = "n" + 28 * "a" + "z"
    names = set()
    for _ in range(8):
        name = render(road, *JOB, "--name", longest)[-1]["metadata"]["name"]
        assert name.startswith(longest)
        names.add(name)
        # As JobSet and Volcano call a pod; JobSet leaves room for five letters more.
        pod = f"{name}-node-0-999-abcde" if road == "trainjob" else f"{name}-benchmark-0-0"
        assert re.fullmatch(r"[a-z][-a-z0-9]{,62}", pod)
    assert len(names) == 8


def test_kubeflow_starts_a_job_again_unless_its_input_is_bad() -> None:
    runtime, _ = render("trainjob", *JOB, "--max_retries", "4")
    failure = runtime["spec"]["template"]["spec"]["failurePolicy"]
    assert failure["maxRestarts"] == 4
    (rule,) = failure["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    # As JobSet has it.
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])

    job = runtime_job(runtime)
    bad_input, disruption = job["podFailurePolicy"]["rules"]
    assert (bad_input["action"], bad_input["onExitCodes"]) == (
        "FailJob",
        {"containerName": "node", "operator": "In", "values": [host.BAD_INPUT]},
    )
    assert (disruption["action"], disruption["onPodConditions"]) == (
        "Ignore",
        [{"type": "DisruptionTarget", "status": "True"}],
    )
    # Kubernetes takes a podFailurePolicy only so.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["backoffLimit"] == 0


def volcanos_action(job: Manifest, task: Manifest, event: str, exit_code: int) -> str:
    """Volcano's choice: the first of the task's policies that fits, then of the job's."""
    for policy in [*task.get("policies", []), *job["spec"].get("policies", [])]:
        if policy.get("event") == event or policy.get("exitCode") == exit_code:
            return str(policy["action"])
    return "SyncJob"


def test_volcano_starts_a_job_again_unless_its_input_is_bad() -> None:
    (job,) = render("volcano", *JOB, "--max_retries", "4")
    assert job["spec"]["maxRetry"] == 4
    for task in job["spec"]["tasks"]:
        assert volcanos_action(job, task, "PodFailed", host.BAD_INPUT) == "TerminateJob"
        assert volcanos_action(job, task, "PodFailed", 1) == "RestartJob"
        assert volcanos_action(job, task, "PodEvicted", host.STOPPED) == "RestartJob"
    (job,) = render("volcano", *JOB, "--max_retries", "0")
    for task in job["spec"]["tasks"]:
        assert volcanos_action(job, task, "PodFailed", 1) == "SyncJob"


@pytest.mark.parametrize("road", ROADS)
def test_pods_are_nobody_special_and_have_time_shared_memory_and_volumes(road: str) -> None:
    for pod in pod_specs(render(road, *JOB, options=("--grace-s", "77"))):
        assert pod["terminationGracePeriodSeconds"] == 77
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert "privileged" not in container["securityContext"]
        sources = {volume.pop("name"): volume for volume in copy.deepcopy(pod["volumes"])}
        mounted = {
            mount["mountPath"]: (sources[mount["name"]], mount.get("readOnly", False))
            for mount in container["volumeMounts"]
        }
        mounted["/data"][0]["persistentVolumeClaim"].pop("readOnly", None)
        assert mounted == {
            "/dev/shm": ({"emptyDir": {"medium": "Memory"}}, False),
            "/data": ({"persistentVolumeClaim": {"claimName": "data"}}, False),
            "/raw": ({"hostPath": {"path": "/mnt/raw"}}, True),
        }


def amount(quantity: str) -> float:
    """Kubernetes' quantity as a number: cores, bytes, pieces."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1}
    found = re.fullmatch(r"([\d.]+)(\w*)", quantity)
    assert found
    return float(found[1]) * units[found[2]]


@pytest.mark.parametrize("road", ROADS)
def test_pods_ask_for_what_the_host_has(road: str) -> None:
    manifests = render(road, *JOB, "--gpu", "8", "--cpu", "90", "--memMB", "500000")
    resources = (
        [manifests[1]["spec"]["trainer"]["resourcesPerNode"]]
        if road == "trainjob"
        else [pod["containers"][0]["resources"] for pod in pod_specs(manifests)]
    )
    for found in resources:
        limits = {name: amount(value) for name, value in found["limits"].items()}
        assert limits == {"cpu": 90, "memory": 500e9, "nvidia.com/gpu": 8}
        requests = {name: amount(value) for name, value in found["requests"].items()}
        # TorchX leaves a little to the node's own processes.
        assert limits["cpu"] - 0.1 <= requests["cpu"] <= limits["cpu"]
        assert limits["memory"] - 1.024e9 <= requests["memory"] <= limits["memory"]
        assert requests["nvidia.com/gpu"] == 8


def test_a_host_without_gpus_asks_for_none() -> None:
    _, job = render("trainjob", *JOBS["one process"])
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"cpu": "2", "memory": "9000M"}


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trainjob", "benchmark", "--mounts", "type=volume,src=a,dst=/a"), "without --image"),
        (("trainjob", "evaluate", "--run", "/nowhere"), "/nowhere holds no run"),
        (("trainjob", *JOB, "--", "--epochs", "0"), "--epochs is 0"),
        (("trainjob", "benchmark"), "--image: pods run in a container"),
        (("trainjob", *JOB, "-j", "1:2x8"), "-j 1:2x…: a TrainJob has a fixed size"),
        (("trainjob", *JOB, "--env", "PET_NNODES=3"), "--env PET_NNODES: Kubeflow sets it"),
        (("trainjob", "--grace-s", "0", *JOB), "--grace-s 0: 1 or more"),
        (("trainjob", "--namespace", "My_team", *JOB), "--namespace My_team: small letters"),
        (("trainjob", "--queue", "a b", *JOB), "--queue a b: small letters"),
        (("trainjob", "--runtime", "-x", *JOB), "argument --runtime: expected one argument"),
        (("trainjob", "--runtime", "x-", *JOB), "--runtime x-: small letters"),
        (("trainjob", *JOB, "--name", "n" * 31), "at most 30 letters"),
        (("trainjob", *JOB, "--host", "h100"), "--host h100: unknown"),
        (("trainjob", *JOB, "--mounts", "type=device,src=/dev/x"), "type=device,src=/dev/x: would"),
        (("volcano", "--queue", "q", *JOB, "--mounts", "type=device,src=/dev/x"), "/dev/x: would"),
        (("volcano", *JOB), "--queue: Volcano wants one"),
        (("volcano", "--queue", "q", *JOB, "--memMB", "1024"), "--memMB 1024: TorchX asks"),
        (("volcano", "--queue", "q", "--runtime", "r", *JOB), "--runtime r: Volcano has none"),
        (("trainjob", "tune"), "invalid choice: 'tune'"),
    ],
)
def test_what_no_cluster_would_take_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        kubernetes.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        len([line for line in said.err.splitlines() if message in line and "error: " in line]) == 1
    )


def test_the_least_memory_that_volcano_takes_is_more_than_nothing() -> None:
    (job,) = render("volcano", *JOB, "--memMB", "1025")
    requests = job["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert requests["memory"] == "1M"


@pytest.mark.parametrize("road", ROADS)
def test_the_command_prints_manifests_and_nothing_else(road: str) -> None:
    words = [sys.executable, "-m", "launch.kubernetes", road, "--queue", "q", *JOB]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stderr == ""
    for manifest in yaml.safe_load_all(done.stdout):
        check(manifest)


# ---- AWS Batch, while TorchX has it ----


def aws_batch() -> tuple[Manifest, list[str]]:
    with get_runner() as runner:
        info = runner.dryrun_component(
            f"{CHECKOUT / 'launch' / 'components.py'}:train",
            [*JOB[1:-2], "--", "--epochs", "2"],
            scheduler="aws_batch",
            cfg={"queue": "trainers"},
        )
    request = info.request
    (group,) = request.job_def["nodeProperties"]["nodeRangeProperties"]
    return request.job_def, group["container"]["command"]


@pytest.mark.filterwarnings("ignore:Cannot determine resource instance type")
def test_aws_batch_is_given_our_command_by_dry_run() -> None:
    definition, command = aws_batch()
    assert definition["nodeProperties"]["numNodes"] == 2
    assert command[:2] == ["bash", "-c"]
    node = {"AWS_BATCH_JOB_NODE_INDEX": "1"}
    found = parsed(command, node | {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1"})
    assert (found.replica, found.first) == (1, "10.0.0.1")
    assert found.arguments[:5] == ["train", "--data", "/data/d", "--out", "/data/run"]
    assert found.arguments[-2:] == ["--epochs", "2"]
    # On the main node AWS sets no address.
    assert parsed(command, node).first == "localhost"


def test_the_page_names_this_checkouts_commands() -> None:
    page = (CHECKOUT / "launch" / "kubernetes.md").read_text("utf-8")
    commands = re.findall(r"python -m launch\.kubernetes ((?:\\\n|[^\n|])+)", page)
    assert len(commands) >= 2
    for command in commands:
        text = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
        ).stdout
        for manifest in yaml.safe_load_all(printed(*text.rstrip("\0").split("\0"))):
            check(manifest)


def test_versions_of_the_page_are_those_of_setup_cfg() -> None:
    setup = (CHECKOUT / "setup.cfg").read_text("utf-8")
    page = (Path(CHECKOUT) / "launch" / "kubernetes.md").read_text("utf-8")
    for package in ("kubernetes", "kubeflow-trainer-api", "kubernetes-validate", "torchx"):
        (version,) = re.findall(rf"^    {package}==(\S+)$", setup, re.MULTILINE)
        assert f"{package} {version}" in page
