"""The command line: ``dat-rec COMMAND …`` calls ``run`` of ``dat_rec.commands.COMMAND``.

A command's module is imported when it is called, and what it needs after that, so that ``doctor``
can speak of a torch that does not import. Exit codes: 0 done, 2 bad input (one line says what,
where, cure), 75 stopped by SIGTERM with a checkpoint, 130 interrupted, 1 another rank failed, or
another start of the run has taken it over, or a disk or a store stayed full or away (one line says
which, and why), or what was to be planned does not fit; anything else is a bug, with its traceback.
"""

import errno
import importlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

from dat_rec.errors import (
    DiskError,
    RankError,
    SharedError,
    SharedStoreError,
    StoppedError,
    StoreError,
    SupersededError,
    UserError,
    leave_code,
)
from dat_rec.versions import INSTALL, about

COMMANDS = {
    "doctor": "Check versions, devices and backends; print the cure.",
    "prepare": "Turn a log of interactions into a dataset.",
    "validate": "Check a dataset, whoever wrote it; print its faults.",
    "plan": "Plan the sharding of tables on a cluster, and whether they fit.",
    "train": "Train a model on a dataset; alone, or on each rank under torchrun.",
    "status": "Print how a run stands, what failed first, and how to go on.",
    "evaluate": "Rank every held-out item among all items; write metrics.json.",
    "compare": "Compare runs: options that differ, losses, samples/s, metrics.",
    "report": "Write one HTML page about a run, or several side by side.",
    "export": "Write item vectors, index and query tower for serving.",
    "apply": "Make a full export of an older one and the deltas since.",
    "recommend": "Write the best items of each user, from an export.",
    "similar": "Write the nearest items of each item, from an export.",
    "serve": "Answer requests over HTTP, from an export.",
    "publish": "Serve an export's items from a vector store, or write them for a loader.",
    "daily": "Walk the days of a log: score, prepare, train and export each.",
}
"""What each command does."""


def run_command(name: str, arguments: Sequence[str]) -> int | None:
    """Call a command; its exit code, or None where all is well."""
    code: int | None = importlib.import_module(f"dat_rec.commands.{name}").run(arguments)
    return code


def main() -> None:
    """Run ``dat-rec`` with the process's arguments and exit."""
    try:
        _run(sys.argv[1:])
    except SystemExit as stop:
        leave_code(stop.code)
        raise


def _run(arguments: Sequence[str]) -> None:
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
        code = run_command(arguments[0], arguments[1:])
    except (DiskError, SharedStoreError, SupersededError) as error:
        _end(1, error, first_only=True)
    except SharedError as error:
        _end(2, error, f"error: {error}", first_only=True)
    except StoreError as error:
        _end(1, error, f"stopped: {error}")
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
    if code is not None:
        _leave(code)


def _crash() -> NoReturn:
    """End with the traceback of a bug."""
    traceback.print_exc()
    sys.stderr.flush()
    # Of several ranks, threads and sockets that wait for the others would keep this one.
    os._exit(1)


def _usage() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
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
