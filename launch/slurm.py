"""TorchX's Slurm scheduler, which tries the nodes before it queues a job, and follows requeues.

What is ours, and why:

- the nodes are tried first, with ``dat-rec doctor --cluster`` on those that are idle;
- a job whose ranks refused their input (exit code 2) is not queued again; one that was stopped
  at its time limit with a checkpoint is;
- each task gets its node's CPUs (srun no longer takes them from sbatch), and a job that runs
  again adds to its logs;
- values of environment variables may hold commas, at which srun would cut them;
- ``torchx status`` knows cancelled jobs, and jobs that wait to run again; ``torchx log`` finds the
  files from any folder.
"""

import dataclasses
import re
import shlex
import subprocess
import sys
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
from torchx.specs import (
    AppDef,
    AppState,
    ReplicaStatus,
    Resource,
    Role,
    RoleStatus,
    macros,
    runopts,
)

from launch.job import CHECK, check_no_image
from launch.refuse import refuse

LOGS = "logs"
"""Folder of the jobs' logs, in the one from which they are submitted."""
STOP_BEFORE_END_S = 120
"""So long before its time limit a job is asked to write a checkpoint and stop."""
IDLE_S = 10
"""In which the nodes must be free to be tried; otherwise the job tries them when it begins."""
TRY_S = 120
BUSY = ("nodes are busy", "Socket timed out")
"""What srun says when the nodes that it wants are not free now."""
SHORTEST_MIN = 10
"""A job with less time would do little but start and stop."""
SCRIPT = """#!/bin/bash
{options}
export SLURM_UNBUFFEREDIO=1
restarts=${{SLURM_RESTART_COUNT:-0}}
for try in {{1..20}}; do
    begin=$SECONDS
    srun {tasks}
    code=$?
    # Of a start whose first node was lost, Slurm may run parts yet when it starts the job again.
    [ $code -eq 1 ] && [ $restarts -gt 0 ] && [ $((SECONDS - begin)) -lt 5 ] || break
    sleep 3
done
echo "the job's exit code is $code"
# 2: the ranks refused what they were given, and would again. 75: they have saved, and can go on,
# as often as there is need.
case $code in
    0 | 2) ;;
    75) [ {retries} -gt 0 ] && scontrol requeue "$SLURM_JOB_ID" ;;
    *) [ {retries} -gt $restarts ] && scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $code
"""


@dataclass
class Request(torchx_slurm.SlurmBatchRequest):  # type: ignore[misc]  # TorchX ships no types
    """What sbatch is given."""

    check: list[str] = dataclasses.field(default_factory=list)
    """srun's arguments and the command that tries the nodes; nothing for no trial."""

    def materialize(self) -> str:
        """The script, a heterogeneous job with a component for each replica."""
        groups = [replica.materialize() for replica in self.replicas.values()]
        return SCRIPT.format(
            options="\n#SBATCH hetjob\n".join(
                f"#SBATCH {shlex.join(words)}" for words, _ in groups
            ),
            tasks=" :\\\n        ".join(" ".join(words) for _, words in groups),
            retries=self.max_retries,
        )


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

    def _submit_dryrun(self, app: AppDef, cfg: dict[str, Any]) -> AppDryRunInfo[Request]:
        check_no_image(app, "slurm")
        _check_time(cfg.get("time"))
        for role in app.roles:
            if role.min_replicas not in (None, role.num_replicas):
                refuse(
                    f"-j with {role.min_replicas}:{role.num_replicas} hosts: Slurm gives a job a "
                    "fixed number of nodes, and queues it again when one is lost: give one number"
                )
        theirs = super()._submit_dryrun(app, cfg).request
        for replica in theirs.replicas.values():
            if not theirs.max_retries:
                del replica.sbatch_opts["requeue"]
                replica.sbatch_opts["no-requeue"] = None
            replica.sbatch_opts["signal"] = f"TERM@{STOP_BEFORE_END_S}"
            if cpus := replica.sbatch_opts.get("cpus-per-task"):
                replica.srun_opts["cpus-per-task"] = cpus
            replica.srun_opts["open-mode"] = "append"
            for stream in ("output", "error"):
                replica.srun_opts[stream] = f"{LOGS}/{replica.srun_opts[stream]}"
            replica.env["DAT_REC_LOGS"] = f"{Path.cwd() / LOGS}/slurm-{macros.app_id}-*"
            words = [f"{name}={value}" for name, value in replica.env.items()]
            replica.args = [*words, replica.entrypoint, *replica.args]
            replica.entrypoint, replica.env = "env", {}
        theirs.cmd += [f"--output={LOGS}/slurm-%j.out", "--open-mode=append"]
        _check_number(sum(role.num_replicas for role in app.roles), cfg.get("partition"))
        check = self._check(app, cfg) if cfg.get("preflight") else []
        request = Request(theirs.cmd, theirs.replicas, theirs.job_dir, theirs.max_retries, check)
        return AppDryRunInfo(request, repr)

    def _check(self, app: AppDef, cfg: dict[str, Any]) -> list[str]:
        role = app.roles[0]
        if CHECK not in role.metadata:
            return []
        wanted: Resource = role.resource
        options = {name: cfg.get(name) for name in ("partition", "constraint")}
        return [
            *(f"--{name}={value}" for name, value in options.items() if value),
            *(f"--nodes={role.num_replicas}", "--ntasks-per-node=1", "--cpus-per-task=1"),
            *(f"--immediate={IDLE_S}", "--time=5", "--job-name=dat-rec-doctor", "--quiet"),
            # Otherwise the other nodes would wait for one that has found its problem.
            "--kill-on-bad-exit=1",
            *([f"--gpus-per-node={wanted.gpu}"] if wanted.gpu else []),
            *("bash", "-c", role.metadata[CHECK]),
        ]

    def schedule(self, dryrun_info: AppDryRunInfo[Request]) -> str:
        """Try the nodes, then queue the job; gives its id."""
        if dryrun_info.request.check:
            _try_nodes(dryrun_info.request.check)
        Path(LOGS).mkdir(exist_ok=True)
        try:
            job: str = super().schedule(dryrun_info)
        except FileNotFoundError:
            refuse("no sbatch on this machine: submit where Slurm's commands are installed")
        except subprocess.CalledProcessError:
            refuse("sbatch refused the job; its reason stands above")
        return job

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """The job's state: the queue's while it is there, then that of the accounting."""
        rows = _rows("squeue", "--noheader", f"--jobs={app_id}", "--format=%i|%j|%T")
        rows = rows or _rows("sacct", "-X", "-n", "-P", "-j", app_id, "-o", "JobID,JobName,State")
        replicas: list[ReplicaStatus] = []
        states: list[AppState] = []
        message = ""
        for job, name, text in rows:
            if job.partition("+")[0] != app_id:
                continue
            role, _, number = name.rpartition("-")
            states.append(_state(text))
            message = message or text
            if role and number.isdecimal():
                replicas.append(
                    ReplicaStatus(id=int(number), role=role, state=states[-1], hostname="")
                )
        if not states:
            return None
        names = list(dict.fromkeys(replica.role for replica in replicas))
        own = {name: [each for each in replicas if each.role == name] for name in names}
        return DescribeAppResponse(
            app_id=app_id,
            roles=[Role(name=name, num_replicas=len(own[name]), image="") for name in names],
            roles_statuses=[RoleStatus(name, own[name]) for name in names],
            # The first component runs the script, and so has the job's own end.
            state=states[0],
            msg=message,
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


def _check_number(wanted: int, partitions: str | None) -> None:
    """Refuse more nodes than there are, for which a job of several components waits for ever."""
    nodes: dict[str, int] = {}
    usual = None
    for name, number in _rows("sinfo", "--noheader", "--responding", "--format=%P|%D"):
        # The usual partition has a star.
        usual = name.rstrip("*") if name.endswith("*") else usual
        nodes[name.rstrip("*")] = nodes.get(name.rstrip("*"), 0) + int(number)
    names = (partitions or usual or "").split(",")
    if not nodes or names == [""]:  # no Slurm here, for a dry run; or the site chooses
        return
    for name in names:
        if name not in nodes:
            refuse(f"-cfg partition={name}: one of {', '.join(nodes)}")
    if wanted > (most := max(nodes[name] for name in names)):
        refuse(f"-j: {wanted} nodes, and the partition {','.join(names)} has {most} that respond")


def _check_time(limit: str | None) -> None:
    """Refuse a time limit in which a job would be asked to stop before it has begun."""
    if limit is None:
        return
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if found is None:  # "infinite", or what Slurm refuses
        return
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        minutes = int(days) * 1440 + parts[0] * 60 + (parts[1] if len(parts) > 1 else 0)
    else:
        minutes = parts[0] * 60 + parts[1] if len(parts) == 3 else parts[0]
    if minutes < SHORTEST_MIN:
        refuse(
            f"-cfg time={limit}: a job is asked to save {STOP_BEFORE_END_S} s before its end, and "
            f"must have begun: at least {SHORTEST_MIN} minutes"
        )


def _try_nodes(check: list[str]) -> None:
    """Run the check on idle nodes; refuse if it finds a problem."""
    print("launch: trying the nodes before the job is queued", file=sys.stderr)
    try:
        done = subprocess.run(
            ["srun", *check], capture_output=True, text=True, check=False, timeout=TRY_S
        )
    except FileNotFoundError:
        refuse("no srun on this machine: submit where Slurm's commands are installed")
    except subprocess.TimeoutExpired:
        refuse(
            f"the nodes did not answer within {TRY_S} s: see them with sinfo; -cfg preflight=False "
            "queues the job untried"
        )
    if done.returncode == 0:
        print("launch: the nodes will do", file=sys.stderr)
    elif any(word in done.stderr for word in BUSY):
        print(
            "launch: note: no idle nodes to try now: the job tries its own when it begins",
            file=sys.stderr,
        )
    elif not_allocated := re.search(r"Unable to allocate resources: (.*)", done.stderr):
        refuse(f"Slurm has no such nodes ({not_allocated[1]}): see them with sinfo")
    else:
        refuse(
            f"the nodes would not do: {_problems(done.stdout, done.stderr)}; -cfg preflight=False "
            "queues the job anyway"
        )


def _problems(stdout: str, stderr: str) -> str:
    """What the doctor has found, or else what was said last."""
    found = re.findall(r"PROBLEM +(\S+) +(.*)\n(?:.* cure: (.*)\n)?", stdout)
    if found:
        return "; ".join(": ".join(filter(None, problem)) for problem in found)
    said = re.findall(r"(?:dat-rec|srun): (.*)", stderr)
    return "; ".join(dict.fromkeys(said)) or "the doctor ended without a word"


def _rows(*command: str) -> list[list[str]]:
    """What a command of Slurm's lists, cut at bars; nothing if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [line.split("|") for line in done.stdout.splitlines() if line]


def _state(text: str) -> AppState:
    """Of a job, in Slurm's words: also ``COMPLETING``, or ``CANCELLED by 0``."""
    word = text.split()[0].rstrip("+")
    if word == "COMPLETING":
        return AppState.RUNNING
    return torchx_slurm.SLURM_STATES.get(word, AppState.UNKNOWN)


def create_scheduler(session_name: str, **_: Any) -> SlurmScheduler:
    """For TorchX's entry point."""
    return SlurmScheduler(session_name)
