"""``dat-rec`` in processes forked from a server that has imported it: many runs, one import.

A process runs ``dat_rec.cli.main`` with its arguments, as the command does; exit code, stdout
and stderr are the process's own.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import tests.distributed.ranks  # noqa: F401  # says what the server imports
from tests.device import on_device
from tests.rendezvous import free_port, rank_variables

LIMIT_S = 300


def forked(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``dat-rec ARGUMENTS``; ``variables`` are set in its environment.

    Raises:
        TimeoutError: it hangs.
    """
    (done,) = forked_ranks(arguments, [variables])
    return done


def on_ranks(count: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``dat-rec ARGUMENTS`` on so many ranks: all that they print, and the first exit code not 0.

    Raises:
        TimeoutError: one hangs.
    """
    ended = forked_ranks(arguments, ranks_here(count))
    return subprocess.CompletedProcess(
        ended[0].args,
        next((one.returncode for one in ended if one.returncode), 0),
        "".join(one.stdout for one in ended),
        "".join(one.stderr for one in ended),
    )


def ranks_here(count: int) -> list[dict[str, str]]:
    """The environment variables of so many ranks on this machine; none for one alone."""
    port = free_port()
    return [rank_variables(rank, count, port) if count > 1 else {} for rank in range(count)]


def forked_ranks(
    arguments: Sequence[str | Path], ranks: Sequence[Mapping[str, str]], limit_s: float = LIMIT_S
) -> list[subprocess.CompletedProcess[str]]:
    """``dat-rec ARGUMENTS`` in a process for each of ``ranks``, with its environment variables.

    Raises:
        TimeoutError: one hangs.
    """
    command = on_device([str(argument) for argument in arguments])
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("forkserver")
        places = [Path(folder, str(number)) for number in range(len(ranks))]
        processes = [
            context.Process(target=_main, args=(command, place, dict(variables)))
            for place, variables in zip(places, ranks, strict=True)
        ]
        for process, place in zip(processes, places, strict=True):
            place.mkdir()
            process.start()
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
        if None in codes:
            said = "\n".join((place / "err").read_text()[-1500:] for place in places)
            raise TimeoutError(f"dat-rec {' '.join(command)} hangs:\n{said}")
        return [
            subprocess.CompletedProcess(
                command, code, (place / "out").read_text(), (place / "err").read_text()
            )
            for code, place in zip(codes, places, strict=True)
        ]


def _main(arguments: list[str], folder: Path, variables: dict[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(variables)
    sys.argv = ["dat-rec", *arguments]
    from dat_rec.cli import main

    main()
