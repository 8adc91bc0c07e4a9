"""Run ``dat-rec`` and torchrun as a user does."""

import os
import subprocess
import sys
from pathlib import Path

from tests.device import on_device

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def dat_rec(*arguments: str | Path, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    """``dat-rec ARGUMENTS``, under torchrun with that many ranks if there are any."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    program = [sys.executable, *(launcher if ranks else []), "-m", "dat_rec"]
    command = [*program, *on_device([str(argument) for argument in arguments])]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def done(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must have succeeded."""
    assert result.returncode == 0, result.stderr
    return result.stdout
