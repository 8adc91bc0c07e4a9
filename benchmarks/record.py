"""What stands beside every figure: command, commit, hardware, versions, time."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchrec


def circumstances() -> dict[str, Any]:
    """Under which conditions this process measures."""
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
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    return f"{os.cpu_count()} cores, {model}"


def percentiles(values: list[float]) -> dict[str, float]:
    """P10, P50 and P90 of ``values``."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"p10": float(low), "p50": float(middle), "p90": float(high)}


def append(path: Path | None, row: Mapping[str, Any]) -> None:
    """Print ``row`` as a JSON line, and add it to ``path`` if there is one."""
    line = json.dumps(row, ensure_ascii=False)
    print(line)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")
