"""A function, run by N ranks on this machine: one core and one thread each, as far as they go."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.multiprocessing as mp

Answer = tuple[int, Any, str]
"""Rank, what its function gave, and what ended it otherwise."""


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` gives on each rank, by rank.

    It runs in processes of its own, which find in the environment what torchrun would tell
    them; ``process_group`` does the rest. Ranks share cores where there are fewer.

    Args:
        world_size: N.
        function: of a module; it and its arguments are pickled, and so is its result.
        arguments: its arguments.

    Raises:
        RuntimeError: a rank failed: with its traceback.
    """
    context = mp.get_context("spawn")
    answers: SimpleQueue[Answer] = context.SimpleQueue()
    port = _free_port()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    ranks = [
        context.Process(
            target=_rank, args=(rank, world_size, port, answers, function, arguments), daemon=True
        )
        for rank in range(world_size)
    ]
    try:
        for process in ranks:
            process.start()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    return _collect(ranks, answers)


def _collect(ranks: list[Any], answers: "SimpleQueue[Answer]") -> list[Any]:
    found: dict[int, Any] = {}
    try:
        while len(found) < len(ranks):
            while answers.empty():
                for rank, process in enumerate(ranks):
                    process.join(0.02)
                    if process.exitcode and answers.empty():
                        raise RuntimeError(f"rank {rank} ended with exit code {process.exitcode}")
            rank, value, problem = answers.get()
            if problem:
                raise RuntimeError(f"rank {rank} failed:\n{problem}")
            found[rank] = value
    finally:
        for process in ranks:
            if len(found) < len(ranks):
                process.kill()
            process.join()
    return [found[rank] for rank in range(len(ranks))]


def _rank(
    rank: int,
    world_size: int,
    port: int,
    answers: "SimpleQueue[Answer]",
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    try:
        answer: Answer = (rank, function(*arguments), "")
    except BaseException:
        answer = (rank, None, traceback.format_exc())
    answers.put(answer)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
