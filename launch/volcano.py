"""A component's job in, TorchX's job for Volcano out, guarded and mended."""

import argparse
import warnings

from torchx.schedulers.kubernetes_scheduler import app_to_resource, sanitize_for_serialization
from torchx.specs import AppDef

from launch.pods import BAD_INPUT, Manifest, guarded, literal, resources
from launch.refuse import refuse


def volcano(app: AppDef, options: argparse.Namespace) -> Manifest:
    """Return TorchX's job for Volcano, guarded, and not tried again after bad input.

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
    wanted = resources(role)
    for task in spec["tasks"]:
        # A task's policies come before its job's, and the first that fits counts: TorchX's start
        # the job again whenever a pod fails.
        ours = {"exitCode": BAD_INPUT, "action": "TerminateJob"}
        task["policies"] = [ours, *task.get("policies", [])]
        pod = task["template"]["spec"]
        for container in pod["containers"]:
            # TorchX asks for 1024 MB less than it allows, which leaves small hosts nothing.
            container["resources"] = {"requests": wanted, "limits": wanted}
            container["command"] = [literal(word) for word in container["command"]]
            for variable in container["env"]:
                variable["value"] = literal(variable["value"])
        task["template"]["spec"] = guarded(pod, options.grace_s)
    return job
