"""Comes in: arguments of ``torchx run``. Goes out: a job that trains with ``dat-rec train``.

    torchx run -s local_cwd -cfg log_dir=FOLDER launch/components.py:train --data DIR --out RUN

TorchX reads the signature and the docstring: type hints must be ``typing``'s own spelling.
"""

import shlex
import sys
from typing import Dict, List, Optional

from torchx import specs
from torchx.components.dist import parse_nnodes
from torchx.specs import macros

RENDEZVOUS = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5"
"""A lost host is noticed in seconds. Below 3 attempts, a host that comes back can form a
second world beside the first, both writing the same checkpoints."""

ENVIRONMENT = {
    # torchrun would keep one store over restarts, and gloo then calls addresses of the dead.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def train(
    *extra: str,
    data: str,
    out: str,
    preset: str = "modern",
    j: str = "1x2",
    name: str = "dat-rec-train",
    image: str = "",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    max_restarts: int = 3,
    max_retries: int = 0,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Train a DAT model on one or more hosts; each worker is one rank.

    Args:
        extra: more arguments of `dat-rec train`, after `--`, e.g. `-- --epochs 2 --resume`
        data: folder that `dat-rec prepare` made, the same path on every host
        out: folder of the run, the same path on every host
        preset: modern, paper or two-tower
        j: {nodes}x{workers on each}, or {least}:{most}x{workers} for an elastic job
        name: the job's name
        image: container image; empty for hosts that share this checkout and its .venv
        cpu: CPUs on each host
        gpu: GPUs on each host
        memMB: memory on each host
        h: a named resource, instead of cpu, gpu and memMB
        env: more environment variables, e.g. A=1,B=2
        max_restarts: restarts of the workers by torchrun, when one of them dies
        max_retries: restarts of the job by the scheduler, when a host dies
        rdzv_port: port on the first host where hosts meet; unused on a single host
    """
    least, most, workers, nodes = parse_nnodes(j)
    # A container has a Python of its own; hosts without one use that of this very checkout.
    python = "python" if image else sys.executable
    torchrun = [
        *(python, "-m", "torch.distributed.run"),
        *("--nnodes", nodes, "--nproc-per-node", str(workers)),
        *("--max-restarts", str(max_restarts)),
        *("--rdzv-id", macros.app_id, "--rdzv-backend", "c10d", "--rdzv-conf", RENDEZVOUS),
        # 3: both streams, to the console and to files.
        *("--tee", "3"),
    ]
    script = ["-m", "dat_rec", "train", "--data", data, "--out", out, "--preset", preset, *extra]
    return specs.AppDef(
        name=name,
        roles=[
            specs.Role(
                name="train",
                image=image,
                entrypoint="bash",
                args=["-c", _command(torchrun, most, rdzv_port, script)],
                env={**ENVIRONMENT, **(env or {})},
                min_replicas=least,
                num_replicas=most,
                max_retries=max_retries,
                resource=specs.resource(cpu=cpu, gpu=gpu, memMB=memMB, h=h),
                port_map={"c10d": rdzv_port},
            )
        ],
    )


def _command(torchrun: List[str], nodes: int, port: int, script: List[str]) -> str:
    """One line for bash, which alone can read the first host's name, set by the scheduler."""
    # TorchX fills in ${rank0_env} and turns $$ into $; port 0 is any free one.
    endpoint = "localhost:0" if nodes == 1 else f"$${{{macros.rank0_env}:-localhost}}:{port}"
    ours = shlex.join(script).replace("$", "$$")
    return f"exec {shlex.join(torchrun)} --rdzv-endpoint {endpoint} {ours}"
