"""What stands beside every figure: command, commit, hardware, versions, time."""

import functools
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np


@functools.cache
def circumstances() -> dict[str, Any]:
    """Under which conditions this process measures."""
    # Seconds to import: not for what measures in other processes.
    import torch
    import torchrec

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "command": shlex.join(["python", "-m", *sys.orig_argv[2:]]),
        "commit": commit or None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchrec": torchrec.__version__,
    }


def _hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    return f"{os.cpu_count()} cores, {model}"


def peak_memory_mb() -> float:
    """Peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def percentiles(values: list[float]) -> dict[str, float]:
    """P10, P50 and P90 of ``values``."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"p10": float(low), "p50": float(middle), "p90": float(high)}


def spread(values: list[float]) -> dict[str, float]:
    """The median as ``value``, and the percentiles."""
    return {"value": float(np.median(values)), **percentiles(values)}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(path: Path | None, row: Mapping[str, Any]) -> None:
    """Print ``row`` as a JSON line, and add it to ``path`` if there is one."""
    line = json.dumps(row, ensure_ascii=False)
    print(line)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")
