"""What the manifests of both roads share: templates, resources, volumes, unprivileged pods."""

from pathlib import Path
from typing import Any

import yaml
from torchx.specs import BindMount, Role, VolumeMount

USER = 1000
"""User id of pods, as in launch/Dockerfile."""
BAD_INPUT = 2
"""Exit code of ranks that refused what they were given, and would again."""

Manifest = dict[str, Any]


def filled(template: str, **values: Any) -> list[Manifest]:
    """Return the documents of a template beside this file, each ``$name`` replaced by its value."""

    def fill(node: Any) -> Any:
        match node:
            case dict():
                return {key: fill(value) for key, value in node.items()}
            case list():
                return [fill(value) for value in node]
            case str() if node.startswith("$"):
                return values[node[1:]]
            case _:
                return node

    text = Path(__file__).with_name(template).read_text("utf-8")
    return [fill(document) for document in yaml.safe_load_all(text)]


def literal(text: str) -> str:
    """Return text for Kubernetes to leave alone: ``$(NAME)`` is a variable, ``$$`` a dollar."""
    return text.replace("$", "$$")


def resources(role: Role) -> dict[str, str]:
    """Return what each pod asks for, and may take at most."""
    found = {"cpu": str(role.resource.cpu), "memory": f"{role.resource.memMB}M"}
    return found | ({"nvidia.com/gpu": str(role.resource.gpu)} if role.resource.gpu else {})


def volumes_and_mounts(role: Role) -> tuple[list[Manifest], list[Manifest]]:
    """Return volumes and where they are mounted; shared memory, of which pods have 64 MB, first."""
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


def guarded(pod: Manifest, grace_s: int) -> Manifest:
    """Return a pod's spec with what ``pod.yaml`` adds, and containers without privileges."""
    for container in pod["containers"]:
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    (guards,) = filled("pod.yaml", grace_s=grace_s, user=USER)
    return pod | guards
