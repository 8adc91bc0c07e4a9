"""TorchX's Slurm scheduler: a job is an sbatch script, tried on idle nodes before it is queued.

What runs on the nodes, and what is queued again, stands in ``slurm_job.sh``. A job whose ranks
refused their input (exit code 2) is not queued again; one that was stopped at its time limit with a
checkpoint is. ``torchx status`` knows cancelled jobs and those that wait to run again, and ``torchx
log`` finds the files from any folder.
"""

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
from torchx.specs import AppDef, AppState, ReplicaStatus, Role, RoleStatus, macros, runopts

from launch.app import TRY_NODE
from launch.checks import check_no_image
from launch.refuse import refuse

LOGS = "logs"
"""Folder of the jobs' logs, in the one from which they are submitted."""
STOP_BEFORE_END_S = 120
"""Seconds before its time limit at which a job is asked to write a checkpoint and stop."""
MIN_MINUTES = 10
"""Minimum time limit: a job with less would do little but start and stop."""
IDLE_S = 10
"""Seconds in which nodes must be free to be tried; otherwise the job tries them when it begins."""
TRY_S = 120
"""Timeout of the trial, in seconds."""
BUSY = ("nodes are busy", "Socket timed out")
"""What srun says when the nodes that it wants are not free now."""
OPTIONS = ("partition", "time", "constraint", "comment", "mail-user", "mail-type")
"""Options of ``torchx run -cfg`` that sbatch knows by the same name."""


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
        _check_time(cfg.get("time"))
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
            _trial(role, cfg) if tried else [],
        )
        return AppDryRunInfo(request, str)

    def schedule(self, dryrun_info: AppDryRunInfo[Request]) -> str:
        """Try the nodes, then queue the job; gives its id."""
        request = dryrun_info.request
        # A job of several components waits for ever for more nodes than there are.
        _sbatch("#!/bin/bash\n", "--test-only", *request.options)
        if request.trial:
            _try_nodes(request.trial)
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


def _trial(role: Role, cfg: Mapping[str, Any]) -> list[str]:
    """Arguments of srun that try as many nodes as the job takes."""
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


def _try_nodes(trial: list[str]) -> None:
    """Run the trial on idle nodes; refuse if it finds a problem."""
    print("launch: trying the nodes before the job is queued", file=sys.stderr)
    untried = "-cfg preflight=False queues the job"
    try:
        done = subprocess.run(["srun", *trial], capture_output=True, text=True, timeout=TRY_S)
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


def _check_time(limit: str | None) -> None:
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
