"""The command line: ``dat-rec COMMAND …``. Each command's options are a dataclass.

A command imports what it needs when it is called, so that ``doctor`` can speak of a torch
that does not import. Exit codes: 0 done, 2 bad input (one line says what, where, cure), 75
stopped by SIGTERM with a checkpoint, 130 interrupted, 1 another rank failed, or another start of
the run has taken it over, or the disk stayed full or away (one line says which, and why), or what
was to be planned does not fit; anything else is a bug, with its traceback.
"""

import dataclasses
import errno
import json
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dat_rec.commands.plan_options import PlanConfig
from dat_rec.config import PRESETS, Device, TrainConfig, preset
from dat_rec.errors import (
    DiskError,
    RankError,
    SharedError,
    StoppedError,
    SupersededError,
    UserError,
    leave_code,
)
from dat_rec.files import local_path
from dat_rec.versions import INSTALL, about, require_stack

Arguments = Sequence[str]


def _parse(command: str, options: Any, arguments: Arguments, **more: Any) -> Any:
    import tyro
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    registry.primitive_rule(_path_rule)
    name = f"dat-rec {command}"
    return tyro.cli(options, prog=name, args=list(arguments), registry=registry, **more)


def _path_rule(info: Any) -> Any:
    """How tyro reads each option that is a path: addresses such as s3://… are refused."""
    from tyro.constructors import PrimitiveConstructorSpec

    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: local_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _prepare(arguments: Arguments) -> None:
    """Turn a log of interactions into a dataset."""
    from dat_rec.data.prepare import prepare
    from dat_rec.data.sources import SOURCES

    options = _parse("prepare", SOURCES, arguments)
    prepare(options)


def _train(arguments: Arguments) -> None:
    """Train a model on a dataset; alone, or on each rank under torchrun."""
    config = parse_train(arguments)
    require_stack()
    from dat_rec.runs.figures import next_command, trained_words
    from dat_rec.train.loop import train

    summary = train(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"{config.out}: {trained_words(summary)}; next: {next_command(config.out, None)}")


def parse_train(arguments: Arguments) -> TrainConfig:
    """The configuration that ``dat-rec train`` arguments stand for.

    ``--preset`` is looked up first: it decides the defaults that the rest overrides.
    """
    import tyro

    _refuse_repeated(arguments)
    name = "modern"
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--preset":
            name = following
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    # A name that is none is left to the parser, which names those that are.
    defaults = preset(PRESETS[PRESETS.index(name)] if name in PRESETS else "modern", Path(), Path())
    default = dataclasses.replace(defaults, data=tyro.MISSING, out=tyro.MISSING)
    config: TrainConfig = _parse("train", TrainConfig, arguments, default=default)
    return config


def _refuse_repeated(arguments: Arguments) -> None:
    """Refuse a list of rules that is begun twice: the parser would forget the first, silently."""
    options = [word.partition("=")[0].replace("_", "-") for word in arguments]
    for option in ("--pin", "--model.fp16-tables", "--fp16-tables"):
        if options.count(option) > 1:
            raise UserError(f"{option} is given twice: give all its values behind one {option}")


def _plan(arguments: Arguments) -> None:
    """Say where tables would go on a cluster, and whether they fit."""
    _refuse_repeated(arguments)
    config: PlanConfig = _parse("plan", PlanConfig, arguments)
    require_stack()
    from dat_rec.commands.plan import plan_command

    if code := plan_command(config):
        sys.exit(code)


@dataclass(frozen=True)
class StatusOptions:
    """Say how a run stands: state, newest checkpoint, what failed first, the command to go on."""

    run: Path
    """Folder that `dat-rec train` made, or makes."""
    json: bool = False
    """Print JSON."""


def _status(arguments: Arguments) -> None:
    """Say how a run stands, what failed first, and how to go on."""
    options: StatusOptions = _parse("status", StatusOptions, arguments)
    from dat_rec.runs.status import status

    found = status(options.run)
    print(json.dumps(found.as_json(), indent=2) if options.json else found.text())


@dataclass(frozen=True)
class Evaluate:
    """Rank every held-out item among all items; write metrics.json beside the run."""

    run: Path
    """Folder that `dat-rec train` made."""
    data: Path | None = None
    """The dataset, if it is no longer where the run found it."""
    checkpoint: str = "newest"
    """Which of the run's checkpoints: the number of its steps, `best` (the lowest main loss, mean
    over the steps since the checkpoint before it) or `newest`."""


def _evaluate(arguments: Arguments) -> None:
    """Rank every held-out item among all items; write metrics.json."""
    options: Evaluate = _parse("evaluate", Evaluate, arguments)
    require_stack()
    from dat_rec.retrieval.evaluate import evaluate, table

    print(table(evaluate(options.run, options.data, options.checkpoint)))


@dataclass(frozen=True)
class CompareOptions:
    """Say in which options runs differ, and what came of each: losses, samples/s, metrics."""

    runs: tuple[Path, ...]
    """Folders that `dat-rec train` made, two or more."""
    json: bool = False
    """Print JSON, with every option."""


def _compare(arguments: Arguments) -> None:
    """Set runs side by side: options that differ, losses, samples/s, metrics."""
    import tyro

    config = (tyro.conf.PositionalRequiredArgs,)
    options: CompareOptions = _parse("compare", CompareOptions, arguments, config=config)
    from dat_rec.runs.compare import compare

    found = compare(options.runs)
    print(json.dumps(found.as_json(), indent=2) if options.json else found.text())


@dataclass(frozen=True)
class Export:
    """Write what serving needs: item vectors, index, query tower with its tables."""

    run: Path
    """Folder that `dat-rec train` made."""
    out: Path
    """Folder of the export."""
    data: Path | None = None
    """The dataset, if it is no longer where the run found it."""
    checkpoint: str = "newest"
    """Which of the run's checkpoints: the number of its steps, `best` (the lowest main loss, mean
    over the steps since the checkpoint before it) or `newest`."""
    overwrite: bool = False
    """Replace an export that stands in OUT."""


def _export(arguments: Arguments) -> None:
    """Write item vectors, index and query tower for serving."""
    options: Export = _parse("export", Export, arguments)
    require_stack()
    from dat_rec.retrieval.export import export

    made = export(
        options.run,
        options.out,
        data=options.data,
        checkpoint=options.checkpoint,
        overwrite=options.overwrite,
    )
    print(
        f"{options.out}: {made['items']:,} items and {made['users']:,} users of "
        f"{options.run}, step {made['source']['checkpoint']:,}; next: dat-rec recommend --export "
        f"{shlex.quote(str(options.out))} --out RECOMMENDATIONS.parquet"
    )


@dataclass(frozen=True)
class Recommend:
    """Write the K best items of each user as Parquet: user_id, rank, item_id, score."""

    export: Path
    """Folder that `dat-rec export` made."""
    out: Path
    """Parquet file to write."""
    k: int = 100
    """Items for each user."""
    queries: Path | None = None
    """Parquet file of users' ids; all known users without it."""
    user_id: str = "user_id"
    """Column of QUERIES with the ids."""
    overwrite: bool = False
    """Replace a file that stands in OUT."""
    show: int = 0
    """Print the first items of so many users."""


def _recommend(arguments: Arguments) -> None:
    """Write the best items of each user, from an export."""
    options: Recommend = _parse("recommend", Recommend, arguments)
    require_stack()
    from dat_rec.retrieval.recommend import recommend, sample

    done = recommend(
        options.export,
        options.k,
        options.out,
        options.queries,
        user_id=options.user_id,
        overwrite=options.overwrite,
    )
    unknown = f", {done.unknown:,} of them unknown" if done.unknown else ""
    print(f"{options.out}: {options.k} items for each of {done.users:,} users{unknown}")
    if options.show:
        print(sample(options.export, options.out, options.show))


@dataclass(frozen=True)
class Doctor:
    """Say which versions and devices are here, whether they work together, and the cure."""

    json: bool = False
    """Print JSON."""
    cluster: bool = False
    """Compare all ranks: versions, run folder, clocks, interfaces, GPUs, memory, bandwidth. Start
    it on every rank under torchrun, as training is; the first one prints."""
    out: Path | None = None
    """With --cluster: the run's folder, there or not, which all hosts must share."""
    device: Device = "auto"
    """With --cluster: what training will be told, as in `dat-rec train`."""


def _doctor(arguments: Arguments) -> None:
    """Check versions, devices and backends; say the cure."""
    from dat_rec.doctor import cluster_main
    from dat_rec.doctor import main as doctor

    # By hand: where tyro is missing, doctor is the one to say so.
    if set(arguments) <= {"--json"}:
        sys.exit(doctor(as_json=bool(arguments)))
    options: Doctor = _parse("doctor", Doctor, arguments)
    if options.cluster:
        _leave(cluster_main(options.out, options.device, as_json=options.json))
    if options.out is not None:
        raise UserError("--out is looked at with --cluster alone: add it, or leave --out out")
    sys.exit(doctor(as_json=options.json))


COMMANDS: dict[str, Callable[[Arguments], None]] = {
    "doctor": _doctor,
    "prepare": _prepare,
    "plan": _plan,
    "train": _train,
    "status": _status,
    "evaluate": _evaluate,
    "compare": _compare,
    "export": _export,
    "recommend": _recommend,
}


def main() -> None:
    """Run ``dat-rec`` with the process's arguments and exit."""
    try:
        _run(sys.argv[1:])
    except SystemExit as stop:
        leave_code(stop.code)
        raise


def _run(arguments: Arguments) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(about())
        sys.exit(0)
    if arguments[0] not in COMMANDS:
        error = UserError(f"no command {arguments[0]!r}: one of {', '.join(COMMANDS)}")
        _end(2, error, f"error: {error}")
    _quieten_libraries()
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except (DiskError, SupersededError) as error:
        _end(1, error, first_only=True)
    except SharedError as error:
        _end(2, error, f"error: {error}", first_only=True)
    except UserError as error:
        _end(2, error, f"error: {error}")
    except StoppedError as stopped:
        _end(75, stopped, first_only=True)
    except RankError as failure:
        _end(1, failure, f"stopped: {failure}")
    except KeyboardInterrupt as stop:
        _end(130, stop, "interrupted; what had been finished is whole", first_only=True)
    except BrokenPipeError:
        # Whoever read what we print has enough of it, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and error.filename is None:
            _crash()
        cure = (
            "free the disk, or choose another path" if full else "correct the path, or its rights"
        )
        where = error.filename or "the disk"
        _end(2, error, f"error: {where}: {error.strerror}: {cure}")
    except ImportError as error:
        package = (error.name or "dat_rec").partition(".")[0]
        if package == "dat_rec":
            _crash()
        what = "is not installed" if isinstance(error, ModuleNotFoundError) else f"fails: {error}"
        _end(2, error, f"error: {package} {what}: run `{INSTALL}`, or see `dat-rec doctor`")
    except Exception:
        _crash()


def _crash() -> NoReturn:
    """End with the traceback of a bug."""
    traceback.print_exc()
    sys.stderr.flush()
    # Of several ranks, threads and sockets that wait for the others would keep this one.
    os._exit(1)


def _usage() -> str:
    lines = [f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items()]
    usage = ["usage: dat-rec COMMAND [--help] …", "       dat-rec --version"]
    return "\n".join([*usage, "", *lines, "", "dat-rec COMMAND --help tells more."])


def _end(
    code: int, error: BaseException, message: str | None = None, *, first_only: bool = False
) -> NoReturn:
    """Say why, and exit. What all ranks know, the first one says.

    Below it stand the error's notes, if this rank is the one that has left the run's record.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone:
        # torchrun stops all ranks once one has ended: this one ends with its own code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = os.environ.get("RANK")
    lines = list(getattr(error, "__notes__", ()))
    if alone or rank == "0" or not first_only:
        who = "" if alone or first_only else f" rank {rank}:"
        lines.insert(0, f"dat-rec:{who} {message or error}")
    if lines:
        print("\n".join(lines), file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exit, on a rank without delay."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    leave_code(code)
    # Threads and sockets that wait for other ranks would keep this one from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _quieten_libraries() -> None:
    """Hide notes that TorchRec and PyTorch address to their own developers."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
