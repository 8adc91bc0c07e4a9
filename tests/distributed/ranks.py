"""Run a function on N real processes with a gloo group, and collect what each returns.

The processes are forked from a server that has imported TorchRec and done nothing with it: a
rank starts in no time, where importing takes it several seconds.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from tests.rendezvous import free_port, rank_variables


def _rank_main(rank: int, function: Callable[..., Any], world: int, hosts: int, *rest: Any) -> None:
    port, folder, *arguments = rest
    os.environ |= rank_variables(rank, world, port, hosts)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


multiprocessing.set_forkserver_preload(["tests.distributed.preloaded"])


def run_ranks(
    function: Callable[..., Any], world: int, *arguments: Any, hosts: int = 1
) -> list[Any]:
    """What ``function(*arguments)`` returns on each rank; it must be importable by name.

    The ranks believe to stand on that many ``hosts``, each with as many of them.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _rank_main,
            (function, world, hosts, port, folder, *arguments),
            nprocs=world,
            start_method="forkserver",
        )
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)
        ]
