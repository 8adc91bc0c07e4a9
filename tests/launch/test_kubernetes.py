"""Manifests, checked against every field that the APIs know; nothing runs on a cluster.

Kubeflow's objects by the models of its own API, pods by Kubernetes' schemas, Volcano's job by
the list of its fields. That a misspelt field would be found is proved by misspelling each.
"""

import copy
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models
from torchx.runner import get_runner

from dat_rec.host import _parser
from dat_rec.install import CHECKOUT
from launch import components
from launch.kubernetes import main

KUBERNETES = "1.37"
FREE = {"labels", "annotations", "limits", "requests", "nodeSelector", "plugins", "torch"}
"""Maps whose keys are the user's own, or may be any."""
VOLCANO = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "namespace"},
    "spec": {"schedulerName", "queue", "tasks", "maxRetry", "plugins", "minAvailable", "policies"},
    "tasks": {"replicas", "name", "template", "maxRetry", "policies", "minAvailable"},
    "policies": {"event", "action", "exitCode"},
}
"""The fields of batch.volcano.sh/v1alpha1 that may stand at each level, outside of pods."""
JOB = (
    *("train", "--image", "registry/dat_rec:1", "--host", "8xh100", "-j", "2x8"),
    *("--mounts", "type=volume,src=data,dst=/data,type=bind,src=/nvme,dst=/cache,readonly"),
    *("--env", "A=it's $HOME,B=$(A)", "--data", "/data/d", "--out", "/data/my run"),
    *("--", "--epochs", "2"),
)
TRAINING = [
    *("train", "--data", "/data/d", "--out", "/data/my run", "--preset", "modern"),
    *("--epochs", "2"),
]

Check = Callable[[Any], None]


def render(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The objects that the command prints."""
    capsys.readouterr()
    assert main(arguments) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.fixture
def runtime_and_job(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return render(capsys, "trainjob", "--queue", "team", "--namespace", "ml", *JOB)


@pytest.fixture
def volcano(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.warns(UserWarning, match="does NOT support retries correctly"):
        (job,) = render(capsys, "volcano", "--queue", "team", "--namespace", "ml", *JOB)
    return job


def check_kubeflow(found: Any) -> None:
    """As the API's own models have it; they pass over unknown fields, but do not give them back."""
    kinds = {"TrainJob": models.TrainerV1alpha1TrainJob}
    kinds |= {"TrainingRuntime": models.TrainerV1alpha1TrainingRuntime}
    model = kinds[found["kind"]].from_dict(copy.deepcopy(found))
    assert model is not None
    assert model.to_dict() == found


def check_pod(spec: Any, metadata: Any) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def check_runtime(found: Any) -> None:
    """With its pods, once more, by Kubernetes' schemas."""
    check_kubeflow(found)
    for job in found["spec"]["template"]["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
        kubernetes_validate.validate(
            whole | {"spec": job["template"]["spec"]}, KUBERNETES, strict=True
        )


def check_volcano(found: Any) -> None:
    levels = [("", found), ("metadata", found["metadata"]), ("spec", found["spec"])]
    levels += [("policies", policy) for policy in found["spec"]["policies"]]
    for task in found["spec"]["tasks"]:
        levels += [("tasks", task), *(("policies", policy) for policy in task["policies"])]
        check_pod(task["template"]["spec"], task["template"]["metadata"])
    for name, level in levels:
        assert set(level) <= VOLCANO[name]
        for field, value in level.items():
            wanted = int if field in ("replicas", "maxRetry", "minAvailable", "exitCode") else str
            if field not in ("metadata", "spec", "tasks", "plugins", "policies", "template"):
                assert type(value) is wanted
    assert all(type(options) is list for options in found["spec"]["plugins"].values())
    assert found["apiVersion"] == "batch.volcano.sh/v1alpha1"


def fields(value: Any, *, inside: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Every field of an object, as the map that holds it and its name."""
    if isinstance(value, list):
        for each in value:
            yield from fields(each, inside=inside)
    elif isinstance(value, dict) and inside not in FREE:
        for name, inner in value.items():
            yield value, name
            yield from fields(inner, inside=name)


def assert_strict(check: Check, found: Any) -> None:
    """Misspell each field, and give each plain value another type: all must be refused."""
    check(found)
    total = len(list(fields(found)))
    assert total > 25
    accepted = []
    for number in range(total):
        for change in ("misspelt", "another type"):
            changed = copy.deepcopy(found)
            place, name = list(fields(changed))[number]
            if change == "misspelt":
                # (In a list of its own order, so that nothing else changes.)
                place[f"{name}x"] = place.pop(name)
            elif isinstance(place[name], (dict, list)):
                place[name] = 7
            else:
                place[name] = {"x": "y"}
            try:
                check(changed)
            except Exception:
                continue
            accepted.append((name, change))
    assert accepted == []


def test_every_field_of_a_train_job_is_known(runtime_and_job: list[dict[str, Any]]) -> None:
    _, job = runtime_and_job
    assert job["kind"] == "TrainJob"
    assert_strict(check_kubeflow, job)


def test_every_field_of_its_runtime_is_known(runtime_and_job: list[dict[str, Any]]) -> None:
    runtime, _ = runtime_and_job
    assert runtime["kind"] == "TrainingRuntime"
    assert_strict(check_runtime, runtime)


def test_every_field_of_a_volcano_job_is_known(volcano: dict[str, Any]) -> None:
    check_volcano(volcano)
    # One pod is enough to misspell.
    del volcano["spec"]["tasks"][1:]
    assert_strict(check_volcano, volcano)


def words(command: list[str], **environment: str) -> Namespace:
    """What dat_rec.host understands of a pod's command, after its shell."""
    script = command[-1].replace("exec ", "printf '%s\\0' ", 1)
    done = subprocess.run([*command[:-1], script], env=environment, capture_output=True, check=True)
    found = done.stdout.decode().rstrip("\0").split("\0")
    assert found[:3] == ["python", "-m", "dat_rec.host"]
    return _parser().parse_args(found[3:])


def test_pods_of_a_train_job_learn_from_kubeflow_where_they_stand(
    runtime_and_job: list[dict[str, Any]],
) -> None:
    runtime, job = runtime_and_job
    trainer = job["spec"]["trainer"]
    found = words(
        [*trainer["command"], *trainer["args"]],
        PET_NODE_RANK="1",
        PET_MASTER_ADDR="job-node-0-0.job",
    )
    assert (found.nnodes, found.nproc_per_node, found.replica) == ("2", 8, 1)
    assert (found.first, found.job) == ("job-node-0-0.job", job["metadata"]["name"])
    assert found.arguments == TRAINING
    assert trainer["numNodes"] == 2
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert runtime["metadata"]["namespace"] == job["metadata"]["namespace"] == "ml"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    host = {"cpu": "192", "memory": "2000000M", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": host, "limits": host}


def test_what_is_not_known_here_is_the_same_on_both_roads(
    runtime_and_job: list[dict[str, Any]], volcano: dict[str, Any]
) -> None:
    trainer = runtime_and_job[1]["spec"]["trainer"]
    ours = words([*trainer["command"], *trainer["args"]], PET_NODE_RANK="0", PET_MASTER_ADDR="h")
    pods = [task["template"]["spec"] for task in volcano["spec"]["tasks"]]
    theirs = [words(pod["containers"][0]["command"], VC_TRAIN_0_HOSTS="h") for pod in pods]
    assert [each.replica for each in theirs] == [0, 1]
    assert theirs[1].first == "h"
    for each in theirs:
        assert each.arguments == ours.arguments == TRAINING
        assert (each.nnodes, each.max_restarts) == (ours.nnodes, ours.max_restarts)


def test_environment_volumes_and_rights(
    runtime_and_job: list[dict[str, Any]], volcano: dict[str, Any]
) -> None:
    runtime, job = runtime_and_job
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pods = [replicated["template"]["spec"]["template"]["spec"]]
    pods += [task["template"]["spec"] for task in volcano["spec"]["tasks"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert pod["terminationGracePeriodSeconds"] == 300
        assert (pod["securityContext"]["runAsNonRoot"], pod["restartPolicy"]) == (True, "Never")
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert paths == ["/dev/shm", "/data", "/cache"]
        assert [mount.get("readOnly", False) for mount in container["volumeMounts"]][1:] == [
            False,
            True,
        ]
        shm, claim, node = pod["volumes"]
        assert shm["emptyDir"] == {"medium": "Memory"}
        assert claim["persistentVolumeClaim"]["claimName"] == "data"
        assert node["hostPath"] == {"path": "/nvme"}
    # Kubernetes fills in $(NAME), and takes $$( for $(.
    for env in (job["spec"]["trainer"]["env"], pods[1]["containers"][0]["env"]):
        told = {each["name"]: each["value"] for each in env}
        assert (told["A"], told["B"]) == ("it's $HOME", "$$(A)")


def test_bad_input_is_not_tried_again_and_lost_nodes_are(
    runtime_and_job: list[dict[str, Any]], volcano: dict[str, Any]
) -> None:
    job_set = runtime_and_job[0]["spec"]["template"]["spec"]
    rules = job_set["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore"]
    assert rules[0]["onExitCodes"]["values"] == [2]
    assert job_set["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    assert job_set["failurePolicy"]["maxRestarts"] == 3
    assert volcano["spec"]["policies"] == [{"exitCode": 2, "action": "AbortJob"}]
    assert volcano["spec"]["maxRetry"] == 3


def test_an_elastic_volcano_job_needs_its_least_number_of_pods(
    capsys: pytest.CaptureFixture[str],
) -> None:
    elastic = ["1:2x8" if word == "2x8" else word for word in JOB]
    with pytest.warns(UserWarning, match="retries"):
        (job,) = render(capsys, "volcano", "--queue", "q", *elastic)
    assert job["spec"]["minAvailable"] == 1
    assert len(job["spec"]["tasks"]) == 2


def test_names_differ_between_submissions(capsys: pytest.CaptureFixture[str]) -> None:
    names = {render(capsys, "trainjob", *JOB)[1]["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5


@pytest.mark.parametrize("component", ["evaluate", "export", "benchmark"])
def test_the_other_components_render_too(
    component: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"evaluate": ["--run", "/r"], "export": ["--run", "/r", "--out", "/e"], "benchmark": []}
    runtime, job = render(
        capsys, "trainjob", component, "--image", "i:1", *own[component], "--memMB", "9000"
    )
    check_runtime(runtime)
    check_kubeflow(job)
    assert component in " ".join(job["spec"]["trainer"]["args"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trainjob", "benchmark", "--mounts", "type=volume,src=a,dst=/a"), "without --image"),
        (("trainjob", "benchmark"), "--image: pods run in a container"),
        (("trainjob", "evaluate", "--run", "/nowhere"), "/nowhere holds no run"),
        (("volcano", *JOB), "--queue: Volcano wants one"),
        (("volcano", "--queue", "q", *JOB[:-3], "--memMB", "1024"), "TorchX asks Volcano for 1024"),
        (("trainjob", *["1:2x8" if word == "2x8" else word for word in JOB]), "a fixed size"),
        (("trainjob", "--grace-s", "0", *JOB), "--grace-s 0"),
        (("trainjob", *JOB, "--epochs", "0"), "--epochs is 0"),
        (
            ("trainjob", "benchmark", "--image", "i", "--mounts", "type=device,src=/dev/x"),
            "would need a privileged pod",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert message in line


def test_aws_batch_by_dry_run() -> None:
    """While TorchX has it. What it asks AWS for, it asks as the job is submitted."""
    app = components.train(data="/data/d", out="/out", image="i:1", j="2x8", host="8xh100")
    with get_runner("test") as runner:
        info = runner.dryrun(app, scheduler="aws_batch", cfg={"queue": "q"})
    nodes = info.request.job_def["nodeProperties"]
    assert nodes["numNodes"] == 2
    for group in nodes["nodeRangeProperties"]:
        container = group["container"]
        assert container["image"] == "i:1"
        # Set by AWS on every node, the address only where it is not the node's own.
        node = {"AWS_BATCH_JOB_NODE_INDEX": "1"}
        first = {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1"}
        found = words(container["command"], **node, **first)
        assert (found.replica, found.first) == (1, "10.0.0.1")
        assert words(container["command"], **node).first == "localhost"
        assert found.arguments[:5] == ["train", "--data", "/data/d", "--out", "/out"]


def test_the_command_prints_yaml_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.kubernetes", "trainjob", *JOB],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [each["kind"] for each in yaml.safe_load_all(done.stdout)] == [
        "TrainingRuntime",
        "TrainJob",
    ]
