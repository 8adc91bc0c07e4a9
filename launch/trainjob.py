"""A component's role in, Kubeflow Trainer's TrainJob and TrainingRuntime out."""

import argparse

from torchx.specs import Role, macros

from launch.pods import BAD_INPUT, Manifest, filled, guarded, literal, resources, volumes_and_mounts
from launch.refuse import refuse

RESERVED = (
    "PET_NNODES",
    "PET_NPROC_PER_NODE",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
)
"""Variables that Kubeflow sets, and refuses in a TrainJob."""


def trainjob(role: Role, name: str, options: argparse.Namespace) -> list[Manifest]:
    """Return the TrainingRuntime and the TrainJob of one submission (``trainjob.yaml``).

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
    # Kubeflow sets both variables; the shell of the job's command reads them.
    values = macros.Values(
        img_root="", app_id=name, replica_id="$PET_NODE_RANK", rank0_env="PET_MASTER_ADDR"
    )
    role = values.apply(role)
    labels = {"app.kubernetes.io/name": "dat-rec", "app.kubernetes.io/component": role.name}
    kueue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    volumes, mounts = volumes_and_mounts(role)
    manifests: list[Manifest] = filled(
        "trainjob.yaml",
        name=name,
        runtime=options.runtime or name,
        namespace=options.namespace,
        labels=labels,
        job_labels=labels | {"app.kubernetes.io/instance": name} | kueue,
        hosts=role.num_replicas,
        max_retries=role.max_retries,
        bad_input=BAD_INPUT,
        image=role.image,
        command=[role.entrypoint],
        args=[literal(word) for word in role.args],
        env=[{"name": key, "value": literal(value)} for key, value in role.env.items()],
        resources=resources(role),
        volumes=volumes,
        mounts=mounts,
    )
    (job,) = manifests[0]["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]
    pod["spec"] = guarded(pod["spec"], options.grace_s)
    return manifests
