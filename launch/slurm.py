"""TorchX's Slurm scheduler: a job is an sbatch script, tried on idle nodes before it is queued.

What runs on the nodes, and what is queued again, stands in ``slurm_job.sh``. A job whose ranks
refused their input (exit code 2) is not queued again; one that was stopped at its time limit with a
checkpoint is. ``torchx status`` knows cancelled jobs and those that wait to run again, and ``torchx
log`` finds the files from any folder.
"""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torchx.schedulers import slurm_scheduler as torchx_slurm
from torchx.schedulers.api import (
    AppDryRunInfo,
    DescribeAppResponse,
    Stream,
    filter_regex,
    split_lines_iterator,
)
from torchx.schedulers.local_scheduler import LogIterator
from torchx.specs import AppDef, AppState, ReplicaStatus, Role, RoleStatus, runopts

from launch.app import TRY_NODE
from launch.checks import check_no_image
from launch.refuse import refuse
from launch.slurm_script import LOGS, check_time, options, sbatch_script
from launch.slurm_trial import trial, try_nodes


@dataclass
class Request:
    """What a job asks of Slurm."""

    script: str
    """The sbatch script."""
    options: list[str]
    """Options of sbatch by which Slurm is asked whether it has such nodes, and so many."""
    trial: list[str]
    """Arguments of srun that try the nodes; nothing for no trial."""

    def __str__(self) -> str:
        return self.script


class SlurmScheduler(torchx_slurm.SlurmScheduler):  # type: ignore[misc]  # TorchX ships no types
    """See the module."""

    def _run_opts(self) -> runopts:
        opts = super()._run_opts()
        opts.add("preflight", type_=bool, default=True, help="try the nodes before queueing")
        return opts

    def build_workspace_and_update_role(
        self,
        role: Role,  # noqa: ARG002
        workspace: str,  # noqa: ARG002
        cfg: Mapping[str, Any],
    ) -> None:
        """Refuse ``job_dir``, where TorchX would copy this folder: jobs run this checkout."""
        if cfg.get("job_dir"):
            refuse(f"-cfg job_dir={cfg['job_dir']}: jobs run this very checkout: leave it out")

    def _submit_dryrun(self, app: AppDef, cfg: Mapping[str, Any]) -> AppDryRunInfo[Request]:
        (role,) = app.roles
        check_no_image(app, "slurm")
        check_time(cfg.get("time"))
        if role.min_replicas not in (None, role.num_replicas):
            refuse(
                f"-j with {role.min_replicas}:{role.num_replicas} hosts: Slurm gives a job a "
                "fixed number of nodes, and queues it again when one is lost: give one number"
            )
        # Where nobody has told Slurm the nodes' memory, it would have none to give.
        known_mb = self._partition_memmb(cfg.get("partition"))
        each_node = options(role, cfg, with_memory=known_mb is None or known_mb > 1000)
        tried = cfg.get("preflight") and TRY_NODE in role.metadata
        request = Request(
            sbatch_script(role, each_node),
            [*each_node, f"--nodes={role.num_replicas}"],
            trial(role, cfg) if tried else [],
        )
        return AppDryRunInfo(request, str)

    def schedule(self, dryrun_info: AppDryRunInfo[Request]) -> str:
        """Try the nodes, then queue the job; gives its id."""
        request = dryrun_info.request
        # A job of several components waits for ever for more nodes than there are.
        _sbatch("#!/bin/bash\n", "--test-only", *request.options)
        if request.trial:
            try_nodes(request.trial)
        Path(LOGS).mkdir(exist_ok=True)
        return _sbatch(request.script, "--parsable")

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """Return the job's state: the queue's while it is there, then that of the accounting."""
        rows = _rows("squeue", "--noheader", f"--jobs={app_id}", "--sort=i", "--format=%j|%T")
        rows = rows or _rows("sacct", "-X", "-n", "-P", "-j", app_id, "-o", "JobName,State")
        if not rows:
            return None
        # The first component runs the script, and so has the job's own end.
        name, text = rows[0]
        replicas = [
            ReplicaStatus(number, name, _state(state), hostname="")
            for number, (_, state) in enumerate(rows)
        ]
        return DescribeAppResponse(
            app_id=app_id,
            roles=[Role(name=name, num_replicas=len(rows), image="")],
            roles_statuses=[RoleStatus(name, replicas)],
            state=_state(text),
            msg=text,
        )

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,  # noqa: ARG002
        until: datetime | None = None,  # noqa: ARG002
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """A replica's lines; standard error unless ``streams`` says standard output."""
        extension = "out" if streams == Stream.STDOUT else "err"
        rows = _rows("sacct", "-X", "-n", "-P", "-j", app_id, "-o", "WorkDir")
        folder = Path(rows[0][0] if rows else ".") / LOGS
        file = folder / f"slurm-{app_id}-{role_name}-{k}.{extension}"
        lines: Iterable[str] = LogIterator(app_id, str(file), self, should_tail=should_tail)
        lines = split_lines_iterator(lines)
        return filter_regex(regex, lines) if regex else lines


def _sbatch(script: str, *options: str) -> str:
    """What sbatch prints; a job that it refuses is refused."""
    try:
        done = subprocess.run(["sbatch", *options], input=script, capture_output=True, text=True)
    except FileNotFoundError:
        refuse("no sbatch on this machine: submit where Slurm's commands are installed")
    if done.returncode:
        reason = done.stderr.replace("sbatch: error: ", "").strip().replace("\n", "; ")
        refuse(f"sbatch refused the job: {reason}: `sinfo` lists partitions and nodes")
    return done.stdout.strip()


def _rows(*command: str) -> list[list[str]]:
    """What a command of Slurm's lists, cut at bars; nothing if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return [line.split("|") for line in done.stdout.splitlines() if line]


def _state(text: str) -> AppState:
    """TorchX's state for Slurm's words: also ``COMPLETING``, or ``CANCELLED by 0``."""
    word = text.split()[0].rstrip("+")
    if word == "COMPLETING":
        return AppState.RUNNING
    return torchx_slurm.SLURM_STATES.get(word, AppState.UNKNOWN)


def create_scheduler(session_name: str, **_: Any) -> SlurmScheduler:
    """Make the scheduler; TorchX's entry point."""
    return SlurmScheduler(session_name)
