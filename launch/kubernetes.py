r"""A component's arguments in, manifests for Kubernetes out: ``kubectl apply -f -`` takes them.

    python -m launch.kubernetes trainjob train --image REGISTRY/dat_rec:0.1.0 --host 8xh100 \
        -j 2x8 --mounts type=volume,src=data,dst=/data --data /data/d --out /data/run -- --epochs 1
    python -m launch.kubernetes volcano --queue default train …

``trainjob`` is Kubeflow Trainer's TrainJob, with the TrainingRuntime that it refers to; ``volcano``
is TorchX's job for Volcano, as ``torchx run -s kubernetes`` submits it, and a few fields more. The
components and their arguments are those of ``launch/components.py``. Nothing is contacted.
"""

import argparse
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import yaml
from torchx.schedulers.ids import make_unique
from torchx.schedulers.kubernetes_scheduler import app_to_resource, sanitize_for_serialization
from torchx.specs import AppDef, BindMount, DeviceMount, Role, VolumeMount, macros
from torchx.specs.builders import materialize_appdef, parse_args

from launch import components
from launch.job import COMMAND, go_on_command
from launch.refuse import refuse

COMPONENTS = ("train", "evaluate", "export", "benchmark")
CONTAINER = "node"
"""The name by which Kubeflow's torch policy finds the container that it tells where it stands."""
STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
"""By this label it finds the job that trains."""
ISTIO = "sidecar.istio.io/inject"
"""Istio's proxy would never end, and nor would the pod; TorchX's pods have this too."""
USER = 1000
"""As in launch/Dockerfile."""
BAD_INPUT = 2
"""Exit code of ranks that refused what they were given, and would again."""
LONGEST = 30
"""Letters of a job's name: what makes it unique, and its pods, add up to 33, and 63 are allowed."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PLAIN = re.compile(r"[A-Za-z/][-A-Za-z0-9_./]+")
"""Text that every reader of YAML takes for text, unless PyYAML puts it between quotes by itself:
kubectl takes 1e3 for a number and y for true, PyYAML does not."""
RESERVED = (
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
)
"""Variables that Kubeflow sets, and refuses in a TrainJob."""

Manifest = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    app = _app(options)
    role = app.roles[0]
    _check_results(role)
    again = go_on_command(["torchx", *words]).removeprefix("torchx")
    role.env[COMMAND] = f"python -m launch.kubernetes{again} | kubectl apply -f -"
    # TorchX fills in macros here too, and would take one of two dollars.
    role.env = {name: value.replace("$", "$$") for name, value in role.env.items()}
    if options.road == "trainjob":
        manifests = trainjob(role, make_unique(app.name), options)
    else:
        manifests = [volcano(app, options)]
    print(yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False), end="")
    return 0


def _app(options: argparse.Namespace) -> AppDef:
    """The component's job; what neither road takes is refused."""
    component = getattr(components, options.component)
    # Before the component itself, which without an image looks for data on this machine.
    if not parse_args(component, options.arguments).image:
        refuse("--image: pods run in a container: name one made with launch/Dockerfile")
    try:
        app: AppDef = materialize_appdef(component, options.arguments)
    except ValueError as error:
        refuse(f"{options.component}: {error}")
    role = app.roles[0]
    if len(app.name) > LONGEST:
        refuse(f"--name {app.name}: at most {LONGEST} letters, as the names of pods begin with it")
    for mount in role.mounts:
        if isinstance(mount, DeviceMount):
            refuse(f"--mounts type=device,src={mount.src_path}: would need a privileged pod")
    if options.grace_s < 1:
        refuse(f"--grace-s {options.grace_s}: 1 or more")
    for option in ("namespace", "queue", "runtime"):
        value = getattr(options, option)
        if value and not NAME.fullmatch(value):
            refuse(f"--{option} {value}: small letters, digits and dashes, at most 63")
    return app


def _check_results(role: Role) -> None:
    """Refuse results in a folder that ends with its pod."""
    for option, value in pairwise(shlex.split(role.args[-1].replace("$$", "$"))):
        if option not in ("--out", "--run"):
            continue
        place = PurePosixPath(value)
        mounts = [mount for mount in role.mounts if place.is_relative_to(mount.dst_path)]
        if not mounts:
            refuse(f"{option} {value}: on none of --mounts, it would be lost with its pod")
        inner = max(mounts, key=lambda mount: len(mount.dst_path))
        if inner.read_only and not (option == "--run" and role.name == "export"):
            refuse(f"{option} {value}: the mount {inner.dst_path} is readonly")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Without YAML's references to what stood before; doubtful text between quotes."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch.kubernetes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("road", choices=("trainjob", "volcano"))
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--queue", default="", help="Kueue's local queue, or Volcano's queue")
    parser.add_argument(
        "--runtime",
        default="",
        help="of trainjob: the TrainingRuntime's name, for jobs that share one; else the job's own",
    )
    parser.add_argument(
        "--grace-s", type=int, default=300, help="seconds for a checkpoint when a pod must go"
    )
    parser.add_argument("component", choices=COMPONENTS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the component's")
    return parser


def trainjob(role: Role, name: str, options: argparse.Namespace) -> list[Manifest]:
    """The TrainingRuntime and the TrainJob of one submission.

    Args:
        role: of a component.
        name: of the TrainJob; the job's id too, the same when pods start again.
        options: of the command: the namespace, Kueue's LocalQueue or nothing, the runtime's name
            or nothing, and the seconds between a pod's SIGTERM and SIGKILL.
    """
    reserved = [variable for variable in RESERVED if variable in role.env]
    if reserved:
        refuse(f"--env {reserved[0]}: Kubeflow sets it: leave it out")
    if role.min_replicas not in (None, role.num_replicas):
        refuse(
            f"-j {role.min_replicas}:{role.num_replicas}x…: a TrainJob has a fixed size: "
            "give one number, or take volcano"
        )
    runtime_name = options.runtime or name
    labels = {"app.kubernetes.io/name": "dat-rec", "app.kubernetes.io/component": role.name}
    kueue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    # Kubeflow sets both variables; the shell of the job's command reads them.
    values = macros.Values(
        img_root="", app_id=name, replica_id="$PET_NODE_RANK", rank0_env="PET_MASTER_ADDR"
    )
    filled = values.apply(role)
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {
            "name": runtime_name,
            "namespace": options.namespace,
            "labels": labels,
        },
        "spec": {
            "mlPolicy": {"numNodes": role.num_replicas, "torch": {}},
            "template": {"spec": _job_set(filled, labels, options.grace_s)},
        },
    }
    resources = _resources(role)
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": labels | {"app.kubernetes.io/instance": name} | kueue,
        },
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": runtime_name,
            },
            "trainer": {
                "image": role.image,
                "command": [filled.entrypoint],
                "args": [_literal(word) for word in filled.args],
                "env": [
                    {"name": key, "value": _literal(value)} for key, value in filled.env.items()
                ],
                "numNodes": role.num_replicas,
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
        },
    }
    return [runtime, job]


def _job_set(role: Role, labels: dict[str, str], grace_s: int) -> Manifest:
    """What Kubeflow makes a JobSet of: one pod for each host, started again as the role says."""
    volumes, mounts = _volumes(role)
    pod = {
        "restartPolicy": "Never",
        "containers": [{"name": CONTAINER, "image": role.image, "volumeMounts": mounts}],
        "volumes": volumes,
    }
    job = {
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [BAD_INPUT],
                    },
                },
                # A node that is drained or preempted: its pod comes back, and the others wait.
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {
            "metadata": {"labels": labels, "annotations": {ISTIO: "false"}},
            "spec": _guarded(pod, grace_s),
        },
    }
    return {
        "failurePolicy": {
            "maxRestarts": role.max_retries,
            "rules": [
                {
                    # No dashes: JobSet refuses them here.
                    "name": "bad_input",
                    "action": "FailJobSet",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "replicatedJobs": [
            {
                "name": CONTAINER,
                "replicas": 1,
                "template": {
                    "metadata": {"labels": {STEP: "trainer"}},
                    "spec": job,
                },
            }
        ],
    }


def _literal(text: str) -> str:
    """Text in which Kubernetes fills in nothing: ``$(NAME)`` is a variable, ``$$`` a dollar."""
    return text.replace("$", "$$")


def _resources(role: Role) -> dict[str, str]:
    found = {"cpu": str(role.resource.cpu), "memory": f"{role.resource.memMB}M"}
    return found | ({"nvidia.com/gpu": str(role.resource.gpu)} if role.resource.gpu else {})


def _volumes(role: Role) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and where they are mounted; shared memory, of which pods have 64 MB, first."""
    volumes: list[Manifest] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Manifest] = [{"name": "shm", "mountPath": "/dev/shm"}]
    for number, mount in enumerate(role.mounts):
        name = f"mount-{number}"
        if isinstance(mount, BindMount):
            volumes.append({"name": name, "hostPath": {"path": mount.src_path}})
        elif isinstance(mount, VolumeMount):
            claim = {"claimName": mount.src, "readOnly": mount.read_only}
            volumes.append({"name": name, "persistentVolumeClaim": claim})
        mounts.append({"name": name, "mountPath": mount.dst_path, "readOnly": mount.read_only})
    return volumes, mounts


def _guarded(pod: Manifest, grace_s: int) -> Manifest:
    """A pod's spec, as nobody special, with time for a checkpoint."""
    for container in pod["containers"]:
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    return pod | {
        "terminationGracePeriodSeconds": grace_s,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Not every file of a large volume, at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def volcano(app: AppDef, options: argparse.Namespace) -> Manifest:
    """TorchX's job for Volcano, guarded, and not tried again after bad input.

    Args:
        app: a component's.
        options: of the command: the namespace, Volcano's queue, which must exist, and the seconds
            between a pod's SIGTERM and SIGKILL.
    """
    role = app.roles[0]
    if not options.queue:
        refuse("--queue: Volcano wants one: `default`, where nobody has made another")
    if options.runtime:
        refuse(f"--runtime {options.runtime}: trainjob has one, volcano has none")
    with warnings.catch_warnings():
        # Of Volcano 1.4, where it was mended in 2021: volcano-sh/volcano#1657.
        warnings.filterwarnings("ignore", message="(?s).*does NOT support retries correctly")
        job: Manifest = sanitize_for_serialization(app_to_resource(app, options.queue, None))
    job["metadata"]["namespace"] = options.namespace
    spec = job["spec"]
    # So many pods must have room for the job to begin.
    spec["minAvailable"] = role.min_replicas or role.num_replicas
    if role.min_replicas and role.min_replicas < role.num_replicas:
        # A host that never found room must not hold a job that is done.
        spec["minSuccess"] = role.min_replicas
    resources = _resources(role)
    for task in spec["tasks"]:
        # A task's policies come before its job's, and the first that fits counts: TorchX's start
        # the job again whenever a pod fails.
        ours = {"exitCode": BAD_INPUT, "action": "TerminateJob"}
        task["policies"] = [ours, *task.get("policies", [])]
        pod = task["template"]["spec"]
        for container in pod["containers"]:
            # TorchX asks for 1024 MB less than it allows, which leaves small hosts nothing.
            container["resources"] = {"requests": resources, "limits": resources}
            container["command"] = [_literal(word) for word in container["command"]]
            for variable in container["env"]:
                variable["value"] = _literal(variable["value"])
        task["template"]["spec"] = _guarded(pod, options.grace_s)
    return job


if __name__ == "__main__":
    sys.exit(main())
