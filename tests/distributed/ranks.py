"""Run a function on N real processes with a gloo group, and collect what each returns."""

import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def _rank_main(rank: int, function: Callable[..., Any], world: int, port: int, *rest: Any) -> None:
    folder, *arguments = rest
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


def run_ranks(function: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on each rank; it must be importable by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank_main, (function, world, port, folder, *arguments), nprocs=world)
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)
        ]
