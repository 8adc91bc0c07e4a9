"""A function, run by N ranks on this machine: one core and one thread each, as far as they go."""

import os
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.multiprocessing as mp

Answer = tuple[int, Any, str]
"""Number of the process, what its function gave, and what ended it otherwise."""


LONGEST_TURN_S = 600
"""Timeout of a rank that waits for its turn."""


@dataclass(frozen=True)
class World:
    """Ranks that train together, from some core on."""

    size: int
    first_core: int = 0


@dataclass(frozen=True)
class Turns:
    """When this rank's world is to run, and when it is to leave the machine to others."""

    order: Sequence[Sequence[int]]
    """Numbers of the worlds that run at the same time, in each turn."""
    own: int
    barrier: Any
    """Barrier of the ranks of all worlds."""

    def take(self, rounds: int) -> Iterator[int]:
        """The numbers of the turns that are this world's own, ``rounds`` times in order."""
        for _ in range(rounds):
            for number, worlds in enumerate(self.order):
                self.barrier.wait()
                if self.own in worlds:
                    yield number
                self.barrier.wait()


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
    return _run([(World(world_size), (function, *arguments))])[0]


def on_worlds(
    worlds: Sequence[World],
    order: Sequence[Sequence[int]],
    function: Callable[..., Any],
    *arguments: Any,
) -> list[list[Any]]:
    """What ``function(turns, *arguments)`` gives on each rank of each world, all alive at once.

    Args:
        worlds: each with a process group of its own.
        order: of the ``Turns``.
        function: of a module, called by every rank; as for ``on_ranks``.
        arguments: its arguments.

    Raises:
        RuntimeError: a rank failed: with its traceback.
    """
    ranks = sum(world.size for world in worlds)
    barrier = mp.get_context("forkserver").Barrier(ranks, timeout=LONGEST_TURN_S)
    return _run(
        [
            (world, (function, Turns(order, number, barrier), *arguments))
            for number, world in enumerate(worlds)
        ]
    )


def _run(calls: Sequence[tuple[World, tuple[Any, ...]]]) -> list[list[Any]]:
    context = mp.get_context("forkserver")
    answers: SimpleQueue[Answer] = context.SimpleQueue()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    processes: list[Any] = []
    for (world, call), port in zip(calls, _free_ports(len(calls)), strict=True):
        for rank in range(world.size):
            given = (len(processes), rank, world, port, answers, *call)
            processes.append(context.Process(target=_rank, args=given, daemon=True))
    try:
        for process in processes:
            process.start()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    found = iter(_collect(processes, answers))
    return [[next(found) for _ in range(world.size)] for world, _ in calls]


def _collect(processes: list[Any], answers: "SimpleQueue[Answer]") -> list[Any]:
    found: dict[int, Any] = {}
    try:
        while len(found) < len(processes):
            while answers.empty():
                for number, process in enumerate(processes):
                    process.join(0.02)
                    if process.exitcode and answers.empty():
                        raise RuntimeError(
                            f"process {number} ended with exit code {process.exitcode}"
                        )
            number, value, problem = answers.get()
            if problem:
                raise RuntimeError(f"process {number} failed:\n{problem}")
            found[number] = value
    finally:
        for process in processes:
            if len(found) < len(processes):
                process.kill()
            process.join()
    return [found[number] for number in range(len(processes))]


def _rank(
    number: int,
    rank: int,
    world: World,
    port: int,
    answers: "SimpleQueue[Answer]",
    function: Callable[..., Any],
    *arguments: Any,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world.size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[(world.first_core + rank) % len(cores)]})
    torch.set_num_threads(1)
    try:
        answer: Answer = (number, function(*arguments), "")
    except BaseException:
        answer = (number, None, traceback.format_exc())
    answers.put(answer)


def _free_ports(number: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports
