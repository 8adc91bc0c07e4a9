"""Arguments of a component in, TorchX's description of the job out; what is wrong is refused."""

import dataclasses
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torchx import specs
from torchx.specs import macros

from dat_rec.commands.train import parse_train
from dat_rec.config import TrainConfig
from dat_rec.data.schema import Schema
from dat_rec.errors import UserError
from dat_rec.files import local_path
from dat_rec.options import path_options
from launch.refuse import refuse
from launch.resources import RESOURCES

COMMAND = "DAT_REC_COMMAND"
"""Environment variable with the command by which a user goes on with a run that has stopped."""
CHECK, PORT = "dat_rec.check", "dat_rec.port"
"""In a role's metadata, for the schedulers: a line for bash that tries a host, to be run on each
host of the job; and the port on which they will meet, if it was chosen."""
SIZE = re.compile(r"(?:(?:(\d+):)?(\d+)x)?(\d+)")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Size:
    """Of a job."""

    least: int
    """Hosts with which it begins, and goes on."""
    most: int
    workers: int
    """Ranks on each host."""

    @property
    def nnodes(self) -> str:
        """As torchrun wants it."""
        return str(self.most) if self.least == self.most else f"{self.least}:{self.most}"


ONE = Size(1, 1, 1)


def parse_size(j: str) -> Size:
    """``-j``: ``8`` (workers on one host), ``2x8`` or ``1:2x8`` (hosts × workers)."""
    found = SIZE.fullmatch(j)
    if found is None:
        refuse(f"-j {j}: hosts x workers on each, as in 2x8, or 1:2x8 for one or two hosts")
    most = int(found[2] or 1)
    size = Size(int(found[1] or most), most, int(found[3]))
    if not 1 <= size.least <= size.most or size.workers < 1:
        refuse(f"-j {j}: at least one host and one worker, and the least number of hosts first")
    return size


def resource(host: str, cpu: int, gpu: int, mem_mb: int, size: Size = ONE) -> specs.Resource:
    """What each host must have: the named host's, changed where numbers are given.

    Args:
        host: a name of RESOURCES.
        cpu: number; 0: the named host's.
        gpu: number; -1: the named host's.
        mem_mb: memory in MB; 0: the named host's.
        size: of the job.
    """
    if host not in RESOURCES:
        refuse(f"--host {host}: unknown: one of {', '.join(RESOURCES)}; or --cpu, --gpu, --memMB")
    named = RESOURCES[host]
    for name, value, least in (("cpu", cpu, 0), ("gpu", gpu, -1), ("memMB", mem_mb, 0)):
        if value < least:
            refuse(f"--{name} {value}: a number, or {least} for the named host's")
    found = dataclasses.replace(
        named,
        cpu=cpu or named.cpu,
        gpu=named.gpu if gpu < 0 else gpu,
        memMB=mem_mb or named.memMB,
    )
    if found.gpu and size.workers > found.gpu:
        refuse(
            f"-j: {size.workers} workers on hosts of {found.gpu} GPUs, and each needs its own: "
            f"at most x{found.gpu}"
        )
    return found


def check_training(arguments: Sequence[str], size: Size, image: str) -> list[str]:
    """Refuse what ``dat-rec train`` would refuse on the hosts.

    Args:
        arguments: of ``dat-rec train``.
        size: of the job.
        image: a container has a disk of its own: what is there cannot be seen from here.

    Returns:
        The arguments; without an image with absolute paths, as jobs begin in folders of their own.
    """
    try:
        config = parse_train(arguments)
        config.check()
        if image:
            return list(arguments)
        schema = Schema.load(config.data)
    except UserError as error:
        refuse(str(error))
    ranks = size.most * size.workers
    if schema.examples < ranks:
        refuse(f"-j: {ranks} ranks for {schema.examples} examples of {config.data}")
    if (config.out / "config.json").exists() and not (config.resume or config.overwrite):
        refuse(f"{config.out} holds a run: pass --resume or --overwrite, after --")
    if config.warm_start is not None and not (config.warm_start / "config.json").exists():
        refuse(f"--warm-start {config.warm_start} holds no run: name the folder that train made")
    if config.topology is not None and not config.topology.exists():
        refuse(f"--topology {config.topology} is not there: name the file that calibrate wrote")
    if config.out.exists() and not config.out.is_dir():
        refuse(f"{config.out} is no folder: choose another --out")
    there = next(path for path in (config.out, *config.out.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        refuse(f"{there}: may not be written: choose another --out, or mend its rights")
    return _absolute(arguments)


def _absolute(arguments: Sequence[str]) -> list[str]:
    """The arguments with all folders made absolute."""
    found = list(arguments)
    paths = path_options(TrainConfig)
    for at, word in enumerate(found):
        if word in paths and at + 1 < len(found):
            found[at + 1] = str(Path(found[at + 1]).absolute())
    return found


def of_a_run(run: str, data: str, image: str) -> list[str]:
    """``--run`` and perhaps ``--data``; on hosts without an image the run must be there."""
    words = ["--run", folder(run, image), *(["--data", folder(data, image)] if data else [])]
    if not image and not (Path(run) / "config.json").exists():
        refuse(f"{run} holds no run: name the folder that train made")
    if not image and data:
        try:
            Schema.load(Path(data))
        except UserError as error:
            refuse(str(error))
    return words


def folder(path: str, image: str) -> str:
    """A container's path as it is, a host's own made absolute; addresses are refused."""
    try:
        local = local_path(path)
    except UserError as error:
        refuse(str(error))
    return path if image else str(local.absolute())


def benchmark(script: str) -> str:
    """The module of a script of benchmarks/."""
    module = f"benchmarks.{script}"
    if not VARIABLE.fullmatch(script) or importlib.util.find_spec(module) is None:
        refuse(f"--script {script}: no such script in benchmarks/")
    return module


def on_each_host(
    size: Size, arguments: Sequence[str], image: str, max_restarts: int, port: int
) -> list[str]:
    """The command of every host: ``dat_rec.dist.host`` and, under it, ``dat-rec`` on each rank."""
    if max_restarts < 0:
        refuse(f"--max_restarts {max_restarts}: 0 or more")
    if not 0 <= port < 2**16:
        refuse(f"--rdzv_port {port}: a port is below 65536; 0 chooses one by the job's id")
    words = [
        *(_python(image), "-m", "dat_rec.dist.host", "--job", macros.app_id),
        *("--nnodes", size.nnodes, "--nproc-per-node", str(size.workers)),
        *("--max-restarts", str(max_restarts), "--port", str(port)),
    ]
    # Only a shell can read what schedulers say in variables: the first host's name, of which
    # TorchX fills in the variable's own name, and perhaps the number of this host. ($$ is $.)
    where = f'--replica "{macros.replica_id}" --first "$${{{macros.rank0_env}:-localhost}}"'
    ours = shlex.join(arguments).replace("$", "$$")
    return ["bash", "-c", f"exec {shlex.join(words)} {where} -- {ours}"]


def for_schedulers(size: Size, out: str, image: str, port: int) -> dict[str, str]:
    """What a role's metadata tell our schedulers."""
    facts = {PORT: str(port)} if port else {}
    if not image:
        facts[CHECK] = _check_on_each_host(size, folder(out, image), port)
    return facts


def _check_on_each_host(size: Size, out: str, port: int) -> str:
    """A line for bash that tries the hosts of a job, under Slurm: ``dat-rec doctor --cluster``."""
    words = [
        *(_python(""), "-m", "dat_rec.dist.host", "--nnodes", str(size.most), "--meet-s", "20"),
        *("--max-restarts", "0", "--port", str(port)),
    ]
    first = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    where = f'--first {first} --replica "$SLURM_NODEID" --job "doctor-$SLURM_JOB_ID"'
    return f"exec {shlex.join(words)} {where} -- doctor --cluster --out {shlex.quote(out)}"


def once(words: Sequence[str], image: str) -> list[str]:
    """The command of a job of one process."""
    ours = shlex.join([_python(image), *words]).replace("$", "$$")
    return ["bash", "-c", f"exec {ours}"]


def _python(image: str) -> str:
    # A container has a Python of its own; hosts without one use that of this very checkout.
    return "python" if image else sys.executable


def app(
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
    """The job."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        refuse(f"--name {name}: small letters, digits and dashes, as Kubernetes wants it")
    if max_retries < 0:
        refuse(f"--max_retries {max_retries}: 0 or more")
    if mounts and not image:
        refuse(
            "--mounts without --image: without a container a host sees its own disks as they are"
        )
    try:
        parsed = specs.parse_mounts(list(mounts or ()))
    except (AssertionError, KeyError, ValueError) as error:
        _bad_mounts(mounts, error)
    ours = {"PYTHONUNBUFFERED": "1", **({COMMAND: again} if (again := go_on_command()) else {})}
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name=role,
                image=image,
                entrypoint=command[0],
                args=list(command[1:]),
                env={**ours, **_environment(env or ())},
                min_replicas=size.least,
                num_replicas=size.most,
                max_retries=max_retries,
                resource=resource,
                mounts=parsed,
                metadata=dict(metadata or {}),
            )
        ],
    )


def check_no_image(job: specs.AppDef, scheduler: str) -> None:
    """Refuse a container image where the scheduler would silently run without it."""
    for role in job.roles:
        if role.image:
            refuse(f"--image {role.image}: -s {scheduler} runs no containers: leave it out")


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
        if not VARIABLE.fullmatch(name):
            refuse(f"--env {word}: names and values, as in A=1,B=2")
    return found


def _bad_mounts(mounts: Sequence[str] | None, error: Exception) -> NoReturn:
    refuse(
        f"--mounts {','.join(mounts or ())}: {error}: as in type=bind,src=/data,dst=/data,readonly"
    )


def go_on_command(words: Sequence[str] | None = None) -> str:
    """The ``torchx run`` command that goes on with the run that ``words`` start.

    Args:
        words: a command; this process's without it, where it is one of ``torchx``.
    """
    words = list(sys.argv if words is None else words)
    if Path(words[0]).name != "torchx":
        return ""
    words[0] = "torchx"
    if "--overwrite" in words:
        words.remove("--overwrite")
    if "--resume" not in words:
        words += ["--resume"] if "--" in words else ["--", "--resume"]
    return shlex.join(words)
