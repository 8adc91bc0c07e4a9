"""``dat-rec`` in a process forked from a server that has imported it: many runs, one import.

The process runs ``dat_rec.cli.main`` with its arguments, as the command does; exit code, stdout
and stderr are the process's own.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tests.distributed.ranks  # noqa: F401  # says what the server imports
from tests.device import on_device

LIMIT_S = 120


def _main(arguments: list[str], folder: str, variables: dict[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(variables)
    sys.argv = ["dat-rec", *arguments]
    from dat_rec.cli import main

    main()


def forked(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``dat-rec ARGUMENTS``; ``variables`` are set in its environment.

    Raises:
        TimeoutError: it hangs.
    """
    command = on_device([str(argument) for argument in arguments])
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=_main, args=(command, folder, variables))
        process.start()
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"dat-rec {' '.join(command)} hangs")
        texts = [(Path(folder) / name).read_text() for name in ("out", "err")]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)
