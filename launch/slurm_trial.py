"""A trial of idle Slurm nodes with ``dat-rec doctor --cluster``, before a job is queued."""

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from torchx.specs import Role

from launch.app import TRY_NODE
from launch.refuse import refuse

IDLE_S = 10
"""Seconds in which nodes must be free to be tried; otherwise the job tries them when it begins."""
TRY_S = 120
"""Timeout of the trial, in seconds."""
BUSY = ("nodes are busy", "Socket timed out")
"""What srun says when the nodes that it wants are not free now."""


def trial(role: Role, cfg: Mapping[str, Any]) -> list[str]:
    """Return srun's arguments that try as many nodes as the job takes."""
    options = {name: cfg[name] for name in ("partition", "constraint") if cfg.get(name)}
    return [
        *(f"--{name}={value}" for name, value in options.items()),
        *(f"--nodes={role.num_replicas}", "--ntasks-per-node=1", "--cpus-per-task=1"),
        *(f"--immediate={IDLE_S}", "--time=5", "--job-name=dat-rec-doctor", "--quiet"),
        # Otherwise the other nodes would wait for one that has found its problem.
        "--kill-on-bad-exit=1",
        *([f"--gpus-per-node={role.resource.gpu}"] if role.resource.gpu else []),
        *("bash", "-c", role.metadata[TRY_NODE]),
    ]


def try_nodes(arguments: list[str]) -> None:
    """Run the trial on idle nodes; refuse if it finds a problem."""
    print("launch: trying the nodes before the job is queued", file=sys.stderr)
    untried = "-cfg preflight=False queues the job"
    try:
        done = subprocess.run(["srun", *arguments], capture_output=True, text=True, timeout=TRY_S)
    except FileNotFoundError:
        refuse("no srun on this machine: submit where Slurm's commands are installed")
    except subprocess.TimeoutExpired:
        refuse(f"the nodes did not answer within {TRY_S} s: see them with sinfo; {untried} untried")
    if done.returncode == 0:
        print("launch: the nodes will do", file=sys.stderr)
    elif any(word in done.stderr for word in BUSY):
        print(
            "launch: note: no idle nodes to try now: the job tries its own when it begins",
            file=sys.stderr,
        )
    else:
        refuse(f"the nodes would not do: {_problems(done.stdout, done.stderr)}; {untried} anyway")


def _problems(stdout: str, stderr: str) -> str:
    """What the doctor has found, or else what was said last."""
    found = re.findall(r"PROBLEM +(\S+) +(.*)\n(?:.* cure: (.*)\n)?", stdout)
    if found:
        return "; ".join(": ".join(filter(None, problem)) for problem in found)
    said = re.findall(r"(?:dat-rec|srun): (.*)", stderr)
    return "; ".join(dict.fromkeys(said)) or "the doctor ended without a word"
