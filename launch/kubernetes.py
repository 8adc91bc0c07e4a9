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

Manifest = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests."""
    options = _parser().parse_args(arguments)
    app: AppDef = materialize_appdef(getattr(components, options.component), options.arguments)
    role = app.roles[0]
    if not role.image:
        refuse("--image: pods run in a container: name one made with launch/Dockerfile")
    if options.grace_s < 1:
        refuse(f"--grace-s {options.grace_s}: 1 or more")
    name = re.sub(r"[^a-z0-9-]", "", make_unique(app.name).lower())[:50].rstrip("-")
    if options.road == "trainjob":
        manifests = trainjob(role, name, options.namespace, options.queue, options.grace_s)
    else:
        manifests = [volcano(app, options.namespace, options.queue, options.grace_s)]
    print(yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False), end="")
    return 0


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Without YAML's references to what stood before."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch.kubernetes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("road", choices=("trainjob", "volcano"))
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--queue", default="", help="Kueue's local queue, or Volcano's queue")
    parser.add_argument(
        "--grace-s", type=int, default=300, help="seconds for a checkpoint when a pod must go"
    )
    parser.add_argument("component", choices=COMPONENTS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the component's")
    return parser


def trainjob(role: Role, name: str, namespace: str, queue: str, grace_s: int) -> list[Manifest]:
    """The TrainingRuntime and the TrainJob of one submission.

    Args:
        role: of a component.
        name: of both; the job's id too, the same when pods start again.
        namespace: of both.
        queue: a LocalQueue of Kueue's, or nothing.
        grace_s: seconds between a pod's SIGTERM and SIGKILL.
    """
    if role.min_replicas not in (None, role.num_replicas):
        refuse(
            f"-j {role.min_replicas}:{role.num_replicas}x…: a TrainJob has a fixed size: "
            "give one number, or take volcano"
        )
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
        "metadata": metadata | {"labels": labels},
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
                "name": name,
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
                    "name": "bad-input",
                    "action": "FailJobSet",
                    "onJobFailureReasons": ["PodFailurePolicy"],
                }
            ],
        },
        "replicatedJobs": [
            {
                "name": CONTAINER,
                "template": {
                    "metadata": {"labels": {STEP: "trainer"}},
                    "spec": job,
                },
            }
        ],
    }


def _literal(text: str) -> str:
    """Text in which Kubernetes fills in no variables: it takes ``$(NAME)`` for one."""
    return text.replace("$(", "$$(")


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
        elif isinstance(mount, DeviceMount):
            refuse(f"--mounts type=device,src={mount.src_path}: would need a privileged pod")
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
    for mount in role.mounts:
        if isinstance(mount, DeviceMount):
            refuse(f"--mounts type=device,src={mount.src_path}: would need a privileged pod")
    job: Manifest = sanitize_for_serialization(app_to_resource(app, queue, None))
    job["metadata"]["namespace"] = namespace
    # As long as so many pods run, the job goes on; and so many must have room to begin.
    job["spec"]["minAvailable"] = role.min_replicas or role.num_replicas
    job["spec"]["policies"] = [{"exitCode": BAD_INPUT, "action": "AbortJob"}]
    for task in job["spec"]["tasks"]:
        for container in task["template"]["spec"]["containers"]:
            container["command"] = [_literal(word) for word in container["command"]]
            for variable in container["env"]:
                variable["value"] = _literal(variable["value"])
        task["template"]["spec"] = _guarded(task["template"]["spec"], grace_s)
    return job


if __name__ == "__main__":
    sys.exit(main())
