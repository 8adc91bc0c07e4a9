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
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import yaml
from torchx.schedulers.ids import make_unique
from torchx.schedulers.kubernetes_scheduler import app_to_resource, sanitize_for_serialization
from torchx.specs import AppDef, BindMount, DeviceMount, Role, VolumeMount, macros
from torchx.specs.builders import materialize_appdef

from launch import components
from launch.refuse import refuse

COMPONENTS = ("train", "evaluate", "export", "benchmark")
CONTAINER = "node"
"""The name by which Kubeflow's torch policy finds the container that it tells where it stands."""
STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
"""By this label it finds the job that trains."""
USER = 1000
"""As in launch/Dockerfile."""
BAD_INPUT = 2
"""Exit code of ranks that refused what they were given, and would again."""
TORCHX_TAKES_MB = 1024
"""Of each host's memory, TorchX asks Volcano for so much less."""
LONGEST_NAME = 30
"""Of a job: 15 letters make it unique, and its pods add their own to at most 63."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""Of what stands in Kubernetes."""
WORD = re.compile(r"[A-Za-z/][^\n]+")
"""What every reader of YAML takes for text, unless PyYAML itself has doubts; kubectl's takes 1e3
for a number and y for a truth, and PyYAML does not."""
KUBEFLOWS = (
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
)
"""Variables that Kubeflow sets, whatever a TrainJob says. All are torchrun's defaults:
`dat_rec.host` gives the first two itself, and the others count only without its rendezvous."""

Manifest = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests."""
    options = _parser().parse_args(arguments)
    app: AppDef = materialize_appdef(getattr(components, options.component), options.arguments)
    _check(app, options)
    role = app.roles[0]
    # TorchX would look for macros in what the user gives.
    role.env = {name: value.replace("$", "$$") for name, value in role.env.items()}
    namespace, queue, grace_s = options.namespace, options.queue, options.grace_s
    if options.road == "trainjob":
        name = make_unique(app.name)
        manifests = trainjob(role, name, options.runtime or name, namespace, queue, grace_s)
    else:
        manifests = [volcano(app, namespace, queue, grace_s)]
    print(yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False), end="")
    return 0


def _check(app: AppDef, options: argparse.Namespace) -> None:
    """Refuse what neither road takes."""
    role = app.roles[0]
    if not role.image:
        refuse("--image: pods run in a container: name one made with launch/Dockerfile")
    if options.grace_s < 1:
        refuse(f"--grace-s {options.grace_s}: 1 or more")
    if len(app.name) > LONGEST_NAME:
        refuse(f"--name {app.name}: at most {LONGEST_NAME} letters: pods add theirs, to 63 in all")
    if options.runtime and options.road == "volcano":
        refuse(f"--runtime {options.runtime}: Volcano has none: leave it out")
    for option in ("namespace", "queue", "runtime"):
        value = getattr(options, option)
        if value and not NAME.fullmatch(value):
            refuse(f"--{option} {value}: small letters, digits and dashes, at most 63")
    for mount in role.mounts:
        if isinstance(mount, DeviceMount):
            refuse(f"--mounts type=device,src={mount.src_path}: would need a privileged pod")


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Without YAML's references to what stood before; text in quotes where readers may differ."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True

    def represent_str(self, data: str) -> yaml.Node:
        return self.represent_scalar(
            "tag:yaml.org,2002:str", data, style=None if WORD.fullmatch(data) else "'"
        )


_Plain.add_representer(str, _Plain.represent_str)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch.kubernetes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("road", choices=("trainjob", "volcano"))
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--queue", default="", help="Kueue's local queue, or Volcano's queue")
    parser.add_argument(
        "--runtime",
        default="",
        help="the TrainingRuntime's name, to replace one that stands; without it the job's own",
    )
    parser.add_argument(
        "--grace-s", type=int, default=300, help="seconds for a checkpoint when a pod must go"
    )
    parser.add_argument("component", choices=COMPONENTS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the component's")
    return parser


def trainjob(
    role: Role, name: str, runtime_name: str, namespace: str, queue: str, grace_s: int
) -> list[Manifest]:
    """The TrainingRuntime and the TrainJob of one submission.

    Args:
        role: of a component.
        name: of the TrainJob; the job's id too, the same when pods start again.
        runtime_name: of the TrainingRuntime.
        namespace: of both.
        queue: a LocalQueue of Kueue's, or nothing.
        grace_s: seconds between a pod's SIGTERM and SIGKILL.
    """
    if role.min_replicas not in (None, role.num_replicas):
        refuse(
            f"-j {role.min_replicas}:{role.num_replicas}x…: a TrainJob has a fixed size: "
            "give one number, or take volcano"
        )
    for variable in KUBEFLOWS:
        if variable in role.env:
            refuse(f"--env {variable}: Kubeflow sets it: leave it out")
    metadata: Manifest = {"name": name, "namespace": namespace}
    labels = {"app.kubernetes.io/name": "dat-rec", "app.kubernetes.io/instance": name}
    kueue = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    # Kubeflow sets both variables; the shell of the job's command reads them.
    values = macros.Values(
        img_root="",
        app_id=name,
        replica_id="$PET_NODE_RANK",
        rank0_env="PET_MASTER_ADDR",
    )
    filled = values.apply(role)
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": metadata | {"name": runtime_name, "labels": labels},
        "spec": {
            "mlPolicy": {"numNodes": role.num_replicas, "torch": {}},
            "template": {"spec": _job_set(filled, labels, grace_s)},
        },
    }
    resources = _resources(role)
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata | {"labels": labels | kueue},
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
        "template": {"metadata": {"labels": labels}, "spec": _guarded(pod, grace_s)},
    }
    return {
        "failurePolicy": {
            "maxRestarts": role.max_retries,
            "rules": [
                {
                    "name": "bad_input",
                    "action": "FailJobSet",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "replicatedJobs": [
            {
                "name": CONTAINER,
                "replicas": 1,  # Kubeflow takes no other
                "template": {
                    "metadata": {"labels": {STEP: "trainer"}},
                    "spec": job,
                },
            }
        ],
    }


def _literal(text: str) -> str:
    """Text that Kubernetes gives on as it was: it fills in ``$(NAME)``, and makes one $ of $$."""
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
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def volcano(app: AppDef, namespace: str, queue: str, grace_s: int) -> Manifest:
    """TorchX's job for Volcano, guarded, and not tried again after bad input.

    Args:
        app: a component's.
        namespace: of the job.
        queue: Volcano's, which must exist.
        grace_s: seconds between a pod's SIGTERM and SIGKILL.
    """
    role = app.roles[0]
    if not queue:
        refuse("--queue: Volcano wants one: `default`, where nobody has made another")
    if role.resource.memMB <= TORCHX_TAKES_MB:
        refuse(
            f"--memMB {role.resource.memMB}: TorchX asks Volcano for {TORCHX_TAKES_MB} MB less, "
            "and so for nothing: give more"
        )
    with warnings.catch_warnings():
        # Of Volcano 1.4, as launch/kubernetes.md says.
        warnings.filterwarnings("ignore", "(?s).*does NOT support retries correctly")
        job: Manifest = sanitize_for_serialization(app_to_resource(app, queue, None))
    job["metadata"]["namespace"] = namespace
    # As long as so many pods run, the job goes on; and so many must have room to begin.
    job["spec"]["minAvailable"] = role.min_replicas or role.num_replicas
    for task in job["spec"]["tasks"]:
        # First, since the first that fits counts: TorchX starts the job again after any failure.
        bad_input = {"exitCode": BAD_INPUT, "action": "TerminateJob"}
        task["policies"] = [bad_input, *task.get("policies", [])]
        for container in task["template"]["spec"]["containers"]:
            container["command"] = [_literal(word) for word in container["command"]]
            for variable in container["env"]:
                variable["value"] = _literal(variable["value"])
        task["template"]["spec"] = _guarded(task["template"]["spec"], grace_s)
    return job


if __name__ == "__main__":
    sys.exit(main())
