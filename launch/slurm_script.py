"""A component's role in, sbatch's options and script out (``slurm_job.sh``)."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchx.specs import Role, macros

from launch.refuse import refuse

LOGS = "logs"
"""Folder of the jobs' logs, in the one from which they are submitted."""
STOP_BEFORE_END_S = 120
"""Seconds before its time limit at which a job is asked to write a checkpoint and stop."""
MIN_MINUTES = 10
"""Minimum time limit: a job with less would do little but start and stop."""
OPTIONS = ("partition", "time", "constraint", "comment", "mail-user", "mail-type")
"""Options of ``torchx run -cfg`` that sbatch knows by the same name."""


def options(role: Role, cfg: Mapping[str, Any], *, with_memory: bool) -> list[str]:
    """Return sbatch's options for each node of a job.

    Args:
        role: of a component, with one replica for each node.
        cfg: options of ``torchx run -cfg``.
        with_memory: whether the nodes' memory is asked for.
    """
    wanted = role.resource
    found = {
        "job-name": role.name,
        **{name: cfg[name] for name in OPTIONS if cfg.get(name)},
        "ntasks-per-node": 1,
        "cpus-per-task": wanted.cpu,
        **({"mem": f"{wanted.memMB}M"} if with_memory else {}),
        **({"gpus-per-node": wanted.gpu} if wanted.gpu else {}),
        "signal": f"TERM@{STOP_BEFORE_END_S}",
    }
    requeue = "--requeue" if role.max_retries else "--no-requeue"
    return [*(f"--{name}={value}" for name, value in found.items()), requeue]


def sbatch_script(role: Role, options: list[str]) -> str:
    """Return the script of a role's job, a component with these options for each node."""
    # The shell fills these in; the job's id is text of TorchX's own in the commands until then.
    values = macros.Values(
        img_root="", app_id=macros.app_id, replica_id="$SLURM_PROCID", rank0_env="DAT_REC_FIRST"
    )
    filled = values.apply(role)
    logs = f"{Path.cwd() / LOGS}/slurm-{macros.app_id}-*"
    words = [f"{name}={value}" for name, value in {**filled.env, "DAT_REC_LOGS": logs}.items()]
    command = ["env", *words, filled.entrypoint, *filled.args]
    header = f"#SBATCH {shlex.join([*options, '--nodes=1'])}\n"
    return (
        f"#!/bin/bash\n#SBATCH --output={LOGS}/slurm-%j.out --open-mode=append\n"
        + "#SBATCH hetjob\n".join([header] * role.num_replicas)
        + f"role={role.name} cpus={role.resource.cpu} retries={role.max_retries}\n"
        + f"command=({' '.join(map(_quoted, command))})\n"
        + Path(__file__).with_name("slurm_job.sh").read_text("utf-8")
    )


def _quoted(text: str) -> str:
    """``text`` for the shell, which fills in nothing but the job's id."""
    return shlex.quote(text).replace(macros.app_id, "'\"$SLURM_JOB_ID\"'")


def check_time(limit: str | None) -> None:
    """Refuse a time limit in which a job would be asked to stop before it has begun."""
    days, dash, clock = (limit or "").rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        seconds = int(days or 0) * 86_400
    except ValueError:  # none, "infinite", or what Slurm refuses
        return
    # Slurm reads minutes, minutes:seconds, hours:minutes:seconds, and hours first after days-.
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    seconds += sum(part * unit for part, unit in zip(parts, units, strict=False))
    if seconds < MIN_MINUTES * 60:
        refuse(
            f"-cfg time={limit}: a job is asked to save {STOP_BEFORE_END_S} s before its end, and "
            f"must have begun: at least {MIN_MINUTES} minutes"
        )
