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
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath

import yaml
from torchx.schedulers.ids import make_unique
from torchx.specs import AppDef, DeviceMount, Role
from torchx.specs.builders import materialize_appdef, parse_args

from launch import components
from launch.commands import GO_ON, go_on_command
from launch.refuse import refuse
from launch.trainjob import trainjob
from launch.volcano import volcano

COMPONENTS = ("train", "evaluate", "export", "recommend", "daily", "benchmark")
LONGEST = 30
"""Maximum length of a job's name: what makes it and its pods unique adds 33, and 63 are allowed."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PLAIN = re.compile(r"[A-Za-z/][-A-Za-z0-9_./]+")
"""Text that every reader of YAML takes for text, unless PyYAML puts it between quotes by itself:
kubectl takes 1e3 for a number and y for true, PyYAML does not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    app = _app(options)
    role = app.roles[0]
    _check_results(role)
    again = go_on_command(["torchx", *words]).removeprefix("torchx")
    role.env[GO_ON] = f"python -m launch.kubernetes{again} | kubectl apply -f -"
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
            refuse(f"--{option} {value}: lowercase letters, digits and dashes, at most 63")
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
    parser.add_argument("road", choices=("trainjob", "volcano"), help="what is printed")
    parser.add_argument("--namespace", default="default", help="namespace of all manifests")
    parser.add_argument("--queue", default="", help="Kueue's local queue, or Volcano's queue")
    parser.add_argument(
        "--runtime",
        default="",
        help="the TrainingRuntime's name, for trainjobs that share one; the job's own without it",
    )
    grace = "seconds between a pod's SIGTERM and SIGKILL, for a checkpoint"
    parser.add_argument("--grace-s", type=int, default=300, help=grace)
    parser.add_argument("component", choices=COMPONENTS, help="what runs in the pods")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the component's arguments")
    return parser


if __name__ == "__main__":
    sys.exit(main())
