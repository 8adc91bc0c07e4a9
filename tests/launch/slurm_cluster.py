"""A running Slurm of several nodes on this machine: real daemons, no systemd, no containers.

    python -m tests.launch.slurm_cluster packages      # Debian's, as root
    python -m tests.launch.slurm_cluster up FOLDER
    python -m tests.launch.slurm_cluster down FOLDER

The nodes are ``Hosts``; munge, slurmctld, slurmd for each node, and for ``sacct`` slurmdbd with
MariaDB. All files are in FOLDER, nothing of the machine's own is touched.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dat_rec.install import CHECKOUT
from tests.launch.hosts import Hosts, missing

COMPONENTS = CHECKOUT / "launch" / "components.py"
PACKAGES = (
    *("munge", "slurmctld", "slurmd", "slurm-client"),
    *("slurmdbd", "mariadb-server", "iproute2"),
)
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd", "ip")
NODE_CPUS, NODE_MB = 8, 6000
NODE_LOST_S = 10
"""Without an answer, after which Slurm gives a node up (300 where nobody has said so)."""

Done = subprocess.CompletedProcess[str]


class Cluster(Hosts):
    """The cluster whose files are in ``folder``."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which Slurm's commands speak to this cluster."""
        return super().environment | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self, mounts: Mapping[str, str] | None = None) -> None:
        """Start everything; returns when all nodes are idle.

        Args:
            mounts: by node, a shell command, whose mounts only this node will see.
        """
        self.down()
        for name in ("log", "state", "db", *(f"spool/{node}" for node in self.names)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        super().up()
        self._write_configuration()
        self._start_munge()
        self._start_database()
        self.do(*self.at(self.controller, "slurmctld", "-f", str(self.folder / "slurm.conf")))
        self.wait_for("slurmctld", lambda: self._works("scontrol", "ping"))
        conf = str(self.folder / "slurm.conf")
        for node in self.names:
            own = (mounts or {}).get(node, "true")
            self.do(*self.at(node, "slurmd", "-f", conf, "-N", node, mounts=own))
        self.wait_for("nodes", lambda: self._idle() == set(self.names))

    def down(self) -> None:
        """Stop what ``up`` has started, and whatever runs on the nodes."""
        for file in sorted(self.folder.glob("*.pid")):
            _end(file)
        super().down()

    def torchx(self, *arguments: str, folder: Path | None = None) -> Done:
        """Run ``torchx ARGUMENTS``, in this folder or another."""
        command = [str(Path(sys.executable).with_name("torchx")), *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=folder, capture_output=True, text=True, check=False
        )

    def submit(self, component: str, *arguments: str, options: str = "preflight=True") -> str:
        """Submit a component of ours with ``torchx run -s slurm``; gives the job's id."""
        words = ("run", "-s", "slurm", "-cfg", options, f"{COMPONENTS}:{component}")
        done = self.torchx(*words, *arguments)
        if done.returncode:
            raise RuntimeError(f"torchx run: exit code {done.returncode}: {done.stderr}")
        return done.stdout.split()[-1].rpartition("/")[2]

    def state(self, job: str) -> str:
        """A job's state, in the words of Slurm's queue or, once it has left it, its accounting."""
        queued = self.run("squeue", "--noheader", f"--jobs={job}", "--format=%T").stdout.split()
        if queued:
            return queued[0]
        told = self.run("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").stdout
        return (told.splitlines() or [""])[0]

    def wait(self, job: str, seconds: float = 180.0) -> str:
        """Wait until a job has left the queue; its last state.

        Raises:
            RuntimeError: it has not, by then.
        """
        left = ("", "PENDING", "RUNNING", "COMPLETING", "REQUEUED")
        self.wait_for(f"job {job}'s end", lambda: self.state(job) not in left, seconds)
        return self.state(job)

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float = 180.0) -> None:
        """Wait until it is so.

        Raises:
            RuntimeError: it is not, by then; with what the cluster says.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {seconds:.0f} s for {what}: {self._log()}")
            time.sleep(0.1)

    def logs(self, job: str, stream: Literal["out", "err"]) -> str:
        """What a job's tasks have printed."""
        files = sorted(Path("logs").glob(f"slurm-{job}-*.{stream}"))
        return "\n".join(file.read_text("utf-8", "replace") for file in files)

    # Its parts

    def _idle(self) -> set[str]:
        done = self.run("sinfo", "--noheader", "--states=idle", "--format=%n")
        return set(done.stdout.split())

    def _write_configuration(self) -> None:
        folder, control = self.folder, self.address(self.controller)
        socket = folder / "munge.socket"
        settings = {
            "ClusterName": "datrec",
            "SlurmctldHost": f"{self.controller}({control})",
            "SlurmctldPort": 17000,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            # A job that is queued again waits for so long: 120 s, if not said.
            "AuthInfo": f"socket={socket},cred_expire=5",
            "CredType": "cred/munge",
            "CommunicationParameters": "NoCtldInAddrAny",
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool" / "%n",
            "SlurmctldPidFile": folder / "slurmctld.pid",
            "SlurmdPidFile": folder / "slurmd-%n.pid",
            "SlurmctldLogFile": folder / "log" / "slurmctld",
            "SlurmdLogFile": folder / "log" / "slurmd-%n",
            # No cgroups, no systemd.
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            # Believe CPUs and memory as written below.
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": (
                "bf_interval=1,sched_min_interval=100000,batch_sched_delay=0,bf_resolution=1"
            ),
            "KillWait": 30,
            "MinJobAge": 300,
            "SlurmdTimeout": NODE_LOST_S,
            "MessageTimeout": 5,
            "SlurmctldTimeout": 20,
            "InactiveLimit": 0,
            "BatchStartTimeout": 10,
            "JobRequeue": 1,
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": control,
            "AccountingStoragePort": 17001,
            "AccountingStoragePass": socket,
        }
        text = [f"{name}={value}" for name, value in settings.items()]
        text += [
            f"NodeName={node} NodeHostname={node} NodeAddr={self.address(node)} Port=17010 "
            f"CPUs={NODE_CPUS} RealMemory={NODE_MB} State=UNKNOWN"
            for node in self.names
        ]
        text.append(f"PartitionName=main Nodes={','.join(self.names)} Default=YES State=UP")
        (folder / "slurm.conf").write_text("\n".join(text) + "\n", "ascii")
        database = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={socket}",
            "DbdHost": self.controller,
            "DbdAddr": control,
            "DbdPort": 17001,
            "CommunicationParameters": "NoInAddrAny",
            "SlurmUser": "root",
            "LogFile": folder / "log" / "slurmdbd",
            "PidFile": folder / "slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageLoc": "slurm_accounting",
            "StorageUser": "root",
        }
        file = folder / "slurmdbd.conf"
        file.write_text("".join(f"{k}={v}\n" for k, v in database.items()), "ascii")
        file.chmod(0o600)

    def _start_munge(self) -> None:
        folder = self.folder
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.do(
            *("munged", "--force", f"--key-file={key}", f"--socket={folder / 'munge.socket'}"),
            *(f"--pid-file={folder / 'munged.pid'}", f"--log-file={folder / 'log' / 'munged'}"),
            f"--seed-file={folder / 'munge.seed'}",
        )

    def _start_database(self) -> None:
        folder, log = self.folder, self.folder / "log" / "mariadb"
        data = folder / "db"
        if not (data / "mysql").exists():
            self.do(
                *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}"),
                *("--skip-test-db", "--auth-root-authentication-method=socket"),
            )
        with log.open("ab") as file:
            subprocess.Popen(
                [
                    *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}"),
                    *(f"--socket={folder / 'db.sock'}", f"--pid-file={folder / 'mariadbd.pid'}"),
                    *("--skip-networking", "--innodb-buffer-pool-size=64M"),
                ],
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        ping = ("mariadb-admin", "--no-defaults", f"--socket={folder / 'db.sock'}", "ping")
        self.wait_for("mariadbd", lambda: self._works(*ping))
        database = f"MYSQL_UNIX_PORT={folder / 'db.sock'}"
        self.do(*self.at(self.controller, "env", database, "slurmdbd"))
        self.wait_for("slurmdbd", lambda: self._works("sacctmgr", "-n", "show", "cluster"))
        self._works("sacctmgr", "-i", "add", "cluster", "datrec")

    def _works(self, *command: str) -> bool:
        return self.run(*command).returncode == 0

    def _log(self) -> str:
        """What the queue, the nodes, the daemons and the jobs say, for messages."""
        told = [self.run(*words).stdout for words in (("squeue",), ("sinfo", "-N", "-l"))]
        files = [*sorted((self.folder / "log").iterdir()), *sorted(Path("logs").glob("slurm-*"))]
        lines = [
            f"{file.name}: {line}"
            for file in files
            for line in file.read_text("utf-8", "replace").splitlines()[-15:]
        ]
        return "\n".join([*told, *lines])


def _end(file: Path) -> None:
    """Kill the process that a pid file names."""
    with suppress(ProcessLookupError, ValueError):
        os.kill(int(file.read_text("ascii")), signal.SIGKILL)
    file.unlink(missing_ok=True)


def install() -> int:
    """Install the packages where they are missing, without starting their services."""
    why = missing(PROGRAMS)
    if not why or os.geteuid() != 0:
        print(f"skipped: {why}" if why else "Slurm is installed")
        return 0
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n", "ascii")
        policy.chmod(0o755)
    try:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        add = ["install", "-y", "-q", "--no-install-recommends", *PACKAGES]
        for arguments in (["update", "-q"], add):
            code = subprocess.run(["apt-get", *arguments], env=environment, check=False).returncode
            if code:
                return code
    finally:
        if ours:
            policy.unlink()
    return 0


def main(arguments: list[str]) -> int:
    """Bring a cluster up or down."""
    if arguments == ["packages"]:
        return install()
    if len(arguments) != 2 or arguments[0] not in ("up", "down"):
        print(__doc__, file=sys.stderr)
        return 2
    if why := missing(PROGRAMS):
        print(f"no Slurm here: {why}", file=sys.stderr)
        return 2
    cluster = Cluster(Path(arguments[1]).resolve(), 2)
    if arguments[0] == "down":
        cluster.down()
        return 0
    begin = time.monotonic()
    cluster.up()
    print(f"{', '.join(cluster.names)} are up after {time.monotonic() - begin:.1f} s; now:")
    print(f"export SLURM_CONF={cluster.folder / 'slurm.conf'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
