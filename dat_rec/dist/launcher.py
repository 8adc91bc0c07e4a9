"""What the launcher's environment variables say of this rank: RANK, WORLD_SIZE and their like.

torchrun sets all of them, srun and Kubernetes' PyTorchJob only RANK and WORLD_SIZE. Without a
launcher a process is alone. Variables that contradict one another are refused before anything
starts.
"""

import os
import platform
from pathlib import Path

from dat_rec.errors import UserError

TASKS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun"}
"""Variables in which launchers that set no RANK say how many processes they have started."""


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the world size; (0, 1) without a launcher.

    Raises:
        UserError: the environment contradicts itself.
    """
    rank, world_size = _integer("RANK"), _integer("WORLD_SIZE")
    if rank is None and world_size is None:
        for name, launcher in TASKS.items():
            if (tasks := _integer(name) or 1) > 1:
                raise UserError(
                    f"environment: {launcher} has started {tasks} processes without RANK and "
                    "WORLD_SIZE, and each would be alone: start torchrun once on each host, or set "
                    "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
                )
        return 0, 1
    if rank is None or world_size is None:
        there, missing = ("WORLD_SIZE", "RANK") if rank is None else ("RANK", "WORLD_SIZE")
        raise UserError(f"environment: {there} without {missing}: start with torchrun, or set both")
    if not 0 <= rank < world_size:
        raise UserError(
            f"environment: RANK {rank} of WORLD_SIZE {world_size} contradict one another: start "
            "with torchrun"
        )
    return rank, world_size


def local_rank_and_world_size() -> tuple[int | None, int | None]:
    """Return LOCAL_RANK and LOCAL_WORLD_SIZE; None where the launcher does not set them.

    Raises:
        UserError: they contradict one another.
    """
    rank, world_size = _integer("LOCAL_RANK"), _integer("LOCAL_WORLD_SIZE")
    if rank is not None and world_size is not None and not 0 <= rank < world_size:
        raise UserError(
            f"environment: LOCAL_RANK {rank} of LOCAL_WORLD_SIZE {world_size} contradict "
            "one another: start with torchrun"
        )
    return rank, world_size


def _integer(name: str) -> int | None:
    text = os.environ.get(name)
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise UserError(
            f"environment: {name} is {text!r}, no integer: start with torchrun"
        ) from error


def is_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def torchrun_process() -> str:
    """Return host, process id and start time of the torchrun of this rank; empty without torchrun.

    It stays the same when torchrun restarts its ranks.
    """
    if not is_torchrun():
        return ""
    parent = os.getppid()
    # The 22nd field, counted behind the name, which may hold anything.
    began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{platform.node()}:{parent}:{began}"
