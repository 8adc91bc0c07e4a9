"""A component's command and sizes in, TorchX's description of the job (``AppDef``) out."""

import re
from collections.abc import Mapping, Sequence

from torchx import specs

from launch.checks import folder
from launch.commands import GO_ON, go_on_command, try_each_node
from launch.refuse import refuse
from launch.size import Size

TRY_NODE, PORT = "dat_rec.check", "dat_rec.port"
"""What a role's metadata tell our schedulers: a line for bash that tries a node, to be run on each
node of the job; and the port on which hosts will meet, if it was chosen."""


def metadata(size: Size, out: str, image: str, port: int) -> dict[str, str]:
    """Return the metadata of a role with ranks."""
    found = {PORT: str(port)} if port else {}
    return found if image else found | {TRY_NODE: try_each_node(size, folder(out, image), port)}


def app_def(
    name: str,
    role: str,
    command: Sequence[str],
    image: str,
    size: Size,
    resource: specs.Resource,
    mounts: Sequence[str] | None,
    env: Sequence[str] | None,
    max_retries: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> specs.AppDef:
    """Return the job of one role, with one replica for each host."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        refuse(f"--name {name}: lowercase letters, digits and dashes, as Kubernetes wants it")
    if max_retries < 0:
        refuse(f"--max_retries {max_retries}: 0 or more")
    if mounts and not image:
        refuse(
            "--mounts without --image: without a container a host sees its own disks as they are"
        )
    ours = {"PYTHONUNBUFFERED": "1", **({GO_ON: again} if (again := go_on_command()) else {})}
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name=role,
                image=image,
                entrypoint=command[0],
                args=list(command[1:]),
                env={**ours, **_environment(env or ())},
                min_replicas=size.minimum,
                num_replicas=size.maximum,
                max_retries=max_retries,
                resource=resource,
                mounts=_mounts(mounts or ()),
                metadata=dict(metadata or {}),
            )
        ],
    )


def _environment(words: Sequence[str]) -> dict[str, str]:
    """``A=1``, ``B=2``, …; what has no name belongs to the value before it, as ``A=1,2`` has."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if "=" in word:
            name, _, value = word.partition("=")
            found[name] = value
        elif name:
            found[name] += f",{word}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            refuse(f"--env {word}: names and values, as in A=1,B=2")
    return found


def _mounts(words: Sequence[str]) -> list[specs.BindMount | specs.VolumeMount | specs.DeviceMount]:
    try:
        return list(specs.parse_mounts(list(words)))
    except (AssertionError, KeyError, ValueError) as error:
        refuse(f"--mounts {','.join(words)}: {error}: as in type=bind,src=/data,dst=/data,readonly")
