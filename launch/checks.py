"""Checks of a component's arguments before anything is queued; what is wrong is refused.

A container has disks of its own, which cannot be seen from here: with an image, folders are
neither looked at nor made absolute.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torchx import specs

from dat_rec.commands.daily import parse_log
from dat_rec.commands.daily import read as read_daily
from dat_rec.commands.evaluate import EvaluateOptions
from dat_rec.commands.export import ExportOptions
from dat_rec.commands.parse import parse
from dat_rec.commands.recommend import RecommendOptions
from dat_rec.commands.train import parse_train
from dat_rec.config import TrainConfig
from dat_rec.data.prepare.remote import address_in
from dat_rec.data.schema import Schema
from dat_rec.errors import UserError
from dat_rec.files import local_path
from dat_rec.install import CHECKOUT
from dat_rec.option_marks import path_options
from dat_rec.storage.address import Address, location
from launch.refuse import refuse
from launch.size import Size, parse_size

OPTIONS = {"evaluate": EvaluateOptions, "export": ExportOptions, "recommend": RecommendOptions}
NOT_ABSOLUTE = "{}: is no absolute path, and a job begins in a folder of its own: write one"


@contextmanager
def refusing_user_errors() -> Iterator[None]:
    """Refuse what dat_rec's own code calls bad input."""
    try:
        yield
    except UserError as error:
        refuse(str(error))


def training_arguments(arguments: Sequence[str], size: Size, image: str) -> list[str]:
    """Return the arguments of ``dat-rec train``, or refuse what it would refuse on the hosts.

    Args:
        arguments: of ``dat-rec train``.
        size: the job's.
        image: the container image, or nothing: then paths are made absolute, as jobs begin in
            folders of their own.
    """
    with refusing_user_errors():
        config = parse_train(arguments)
        config.check()
        if image:
            return list(arguments)
        schema = Schema.load(config.data)
    ranks = size.maximum * size.workers
    if schema.examples < ranks:
        refuse(f"-j: {ranks} ranks for {schema.examples} examples of {config.data}")
    _check_paths(config)
    found, paths = list(arguments), path_options(TrainConfig)
    for position, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") not in paths:
            continue
        if equals:
            found[position] = f"{name}={location(value).absolute()}"
        else:
            found[position + 1] = str(location(found[position + 1]).absolute())
    return found


def _check_paths(config: TrainConfig) -> None:
    out, warm_start, topology = config.out, config.warm_start, config.topology
    if (out / "config.json").exists() and not (config.resume or config.overwrite):
        refuse(f"{out} holds a run: pass --resume or --overwrite, after --")
    if warm_start is not None and not (warm_start / "config.json").exists():
        refuse(f"--warm-start {warm_start} holds no run: name the folder that train made")
    if topology is not None and not topology.exists():
        refuse(f"--topology {topology} is not there: name the file that calibrate wrote")
    if out.exists() and not out.is_dir():
        refuse(f"{out} is no folder: choose another --out")
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        refuse(f"{existing}: is not writable: choose another --out, or correct its permissions")


def run_arguments(run: str, data: str, image: str) -> list[str]:
    """Return ``--run`` and, where it is given, ``--data``; without an image both must be there."""
    words = ["--run", folder(run, image)]
    words += ["--data", folder(data, image, or_address=True)] if data else []
    if not image and not (Path(run) / "config.json").exists():
        refuse(f"{run} holds no run: name the folder that train made")
    if not image and data:
        with refusing_user_errors():
            Schema.load(location(data))
    return words


def export_arguments(export: str, queries: str, user_id: str, image: str) -> list[str]:
    """Return ``--export`` and what says whom to recommend to; without an image it must be there."""
    words = ["--export", folder(export, image, or_address=True)]
    if queries:
        words += ["--queries", folder(queries, image, or_address=True), "--user-id", user_id]
    with refusing_user_errors():
        place = location(export)
    if not image and isinstance(place, Path) and not (place / "export.json").exists():
        refuse(f"{export} holds no export: name the folder that export made")
    return words


def command_arguments(command: str, arguments: Sequence[str], image: str) -> list[str]:
    """Return a command and its arguments, or refuse what it would refuse on the host.

    Args:
        command: of ``dat-rec``.
        arguments: behind its name.
        image: the container image, or nothing: then relative paths are refused.
    """
    with refusing_user_errors():
        found = parse(command, OPTIONS[command], arguments)
    for path in () if image else vars(found).values():
        if isinstance(path, Path) and not path.is_absolute():
            refuse(NOT_ABSOLUTE.format(path))
    return [command, *arguments]


def daily_arguments(arguments: Sequence[str], image: str) -> None:
    """Refuse what ``dat-rec daily`` would refuse on the host, and paths that mean another there."""
    with refusing_user_errors():
        log = parse_log(read_daily(arguments)[1])
    for path in () if image else log.inputs():
        if not path.is_absolute() and address_in(path) is None:
            refuse(NOT_ABSOLUTE.format(path))
        if address_in(path) is None and not path.exists():
            refuse(f"{path}: no such file or folder: correct the path")


def fixed_size(j: str) -> Size:
    """Return the size of a job that is not elastic."""
    size = parse_size(j)
    if size.elastic:
        refuse(f"-j {j}: the number of hosts cannot change here: {size.maximum}x{size.workers}")
    return size


def folder(path: str, image: str, *, or_address: bool = False) -> str:
    """Return a container's path as it is, a host's own as absolute path, and an address.

    Refuse an address where only a local path will do.
    """
    with refusing_user_errors():
        found = location(path)
        if isinstance(found, Address) and not or_address:
            local_path(path)
    return path if image else str(found.absolute())


def benchmark(script: str) -> str:
    """Return the module of a script of this checkout's benchmarks/."""
    if not script.isidentifier() or not (CHECKOUT / "benchmarks" / f"{script}.py").exists():
        refuse(f"--script {script}: no such script in benchmarks/")
    return f"benchmarks.{script}"


def check_no_image(app: specs.AppDef, scheduler: str) -> None:
    """Refuse a container image where the scheduler would silently run without it."""
    for role in app.roles:
        if role.image:
            refuse(f"--image {role.image}: -s {scheduler} runs no containers: leave it out")
