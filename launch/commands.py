"""Commands of a job: what each host runs, what tries the nodes, how a user goes on."""

import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torchx.specs import macros

from launch.refuse import refuse
from launch.size import ONE, Size

GO_ON = "DAT_REC_COMMAND"
"""Environment variable with the command by which a user goes on with a run that has stopped."""


def on_each_host(
    size: Size, arguments: Sequence[str], image: str, max_restarts: int, port: int
) -> list[str]:
    """Return the command of every host: ``dat_rec.dist.host``, and ``dat-rec`` on each rank."""
    if max_restarts < 0:
        refuse(f"--max_restarts {max_restarts}: 0 or more")
    if not 0 <= port < 2**16:
        refuse(f"--rdzv_port {port}: a port is below 65536; 0 chooses one by the job's id")
    words = [
        *(_python(image), "-m", "dat_rec.dist.host", "--job", macros.app_id),
        *("--nnodes", size.nnodes, "--nproc-per-node", str(size.workers)),
        *("--max-restarts", str(max_restarts), "--port", str(port)),
    ]
    # Only a shell can read what schedulers say in variables: the first host's name, of which
    # TorchX fills in the variable's own name, and perhaps the number of this host. ($$ is $.)
    where = f'--replica "{macros.replica_id}" --first "$${{{macros.rank0_env}:-localhost}}"'
    ours = shlex.join(arguments).replace("$", "$$")
    return ["bash", "-c", f"exec {shlex.join(words)} {where} -- {ours}"]


def on_ranks(size: Size, arguments: Sequence[str], image: str, port: int) -> list[str]:
    """Return the command of every host of a job that torchrun does not restart."""
    if size == ONE:
        return once(["-m", "dat_rec", *arguments], image)
    return on_each_host(size, arguments, image, 0, port)


def once(words: Sequence[str], image: str) -> list[str]:
    """Return the command of a job of one process."""
    ours = shlex.join([_python(image), *words]).replace("$", "$$")
    return ["bash", "-c", f"exec {ours}"]


def try_each_node(size: Size, out: str, port: int) -> str:
    """Return a line for bash that tries a Slurm node: ``dat-rec doctor --cluster``."""
    words = [
        *(_python(""), "-m", "dat_rec.dist.host", "--nnodes", str(size.maximum), "--meet-s", "20"),
        *("--max-restarts", "0", "--port", str(port)),
    ]
    first = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    where = f'--first {first} --replica "$SLURM_NODEID" --job "doctor-$SLURM_JOB_ID"'
    return f"exec {shlex.join(words)} {where} -- doctor --cluster --out {shlex.quote(out)}"


def _python(image: str) -> str:
    # A container has a Python of its own; hosts without one use that of this very checkout.
    return "python" if image else sys.executable


def go_on_command(words: Sequence[str] | None = None) -> str:
    """Return the ``torchx run`` command that goes on with what ``words`` start.

    Args:
        words: a command; this process's without it. Nothing is returned for other programs.
    """
    words = list(sys.argv if words is None else words)
    if Path(words[0]).name != "torchx":
        return ""
    words[0] = "torchx"
    if any(
        word.endswith(":daily") or (word == "daily" and not before.startswith("-"))
        for before, word in pairwise(words)
    ):
        return shlex.join(words)  # which goes on by itself
    if "--overwrite" in words:
        words.remove("--overwrite")
    if "--resume" not in words:
        words += ["--resume"] if "--" in words else ["--", "--resume"]
    return shlex.join(words)
