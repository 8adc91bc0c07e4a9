"""A running Slurm of several nodes on this machine: real daemons, no systemd, no containers.

    python -m tests.launch.slurm_cluster up FOLDER
    python -m tests.launch.slurm_cluster down FOLDER

Each node is a network namespace with an address, a host name and an /etc/hosts of its own, on
a bridge; munge, slurmctld, slurmd for each node, and for ``sacct`` slurmdbd with MariaDB. All files
are in FOLDER, nothing of the machine's own is touched. Needs root and Debian's packages
(``PACKAGES``).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PACKAGES = (
    *("munge", "slurmctld", "slurmd", "slurm-client"),
    *("slurmdbd", "mariadb-server", "iproute2"),
)
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd", "ip")
NETWORK = "10.78.0"
BRIDGE = "datrec0"
CONTROLLER = "datctl"
PREFIX = "dat"
NODE_CPUS, NODE_MB = 8, 6000
NODE_LOST_S = 10
"""Without an answer, after which Slurm gives a node up."""


def missing() -> str:
    """Why no cluster can run here; nothing if one can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if lacking:
        return f"{', '.join(lacking)} missing: apt-get install {' '.join(PACKAGES)}"
    return ""


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Cluster:
    """The cluster whose files are in ``folder``.

    Args:
        folder: short, since Unix sockets are in it; made if missing.
        nodes: how many, named dat1, dat2, …
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder = folder
        self.nodes = [f"{PREFIX}{number}" for number in range(1, nodes + 1)]
        self._conf = folder / "slurm.conf"
        self._hosts = folder / "hosts"

    @property
    def environment(self) -> dict[str, str]:
        """With it, Slurm's commands speak to this cluster."""
        return os.environ | {"SLURM_CONF": str(self._conf), "PATH": _path()}

    def address(self, host: str) -> str:
        """IPv4 address of a node or of the controller."""
        number = 1 if host == CONTROLLER else 10 + self.nodes.index(host) + 1
        return f"{NETWORK}.{number}"

    # Start and stop

    def up(self) -> None:
        """Start everything; returns when all nodes are idle."""
        if why := missing():
            raise RuntimeError(f"no Slurm here: {why}")
        self.down()
        for name in ("log", "state", "db", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self._network_up()
        self._start_munge()
        self._start_database()
        self._on(CONTROLLER, "slurmctld", "-f", str(self._conf))
        self._wait("slurmctld", lambda: self._quiet("scontrol", "ping"))
        for node in self.nodes:
            self.start_node(node)
        self._wait("nodes", lambda: self.idle() == set(self.nodes))

    def down(self) -> None:
        """Stop what ``up`` has started, and whatever runs on the nodes."""
        for node in self.nodes:
            self._kill_inside(node)
        for file in sorted(self.folder.glob("*.pid")):
            _end(file)
        for node in self.nodes:
            self._quiet("ip", "netns", "delete", node)
            self._quiet("ip", "link", "delete", f"{node}-br")
        self._quiet("ip", "link", "delete", BRIDGE)

    # What happens to nodes

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, as its machine does when it boots."""
        self._on(node, "slurmd", "-f", str(self._conf), "-N", node)

    def kill_node(self, node: str) -> None:
        """As if its power were cut: every process is killed, and the network gone."""
        self.cut(node)
        self._kill_inside(node)

    def cut(self, node: str) -> None:
        """Cut a node's link."""
        self._run("ip", "link", "set", f"{node}-br", "down")

    def mend(self, node: str) -> None:
        """Mend a node's link."""
        self._run("ip", "link", "set", f"{node}-br", "up")

    def as_host(self, host: str, *command: str) -> list[str]:
        """``command`` as run on a host: in its namespaces, under its name."""
        inside = ["nsenter", f"--net=/run/netns/{host}"] if host in self.nodes else []
        # Not `ip netns exec`, which remounts /sys: slurmd would not find its cgroups.
        script = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'
        own = ["unshare", "--uts", "--mount", "bash", "-c", script, host, str(self._hosts)]
        return [*inside, *own, *command]

    def idle(self) -> set[str]:
        """The nodes that wait for jobs."""
        done = self.run("sinfo", "--noheader", "--states=idle", "--format=%n")
        return set(done.stdout.split())

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm's, from outside the nodes."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    # Its parts

    def _write_configuration(self) -> None:
        folder, control = self.folder, self.address(CONTROLLER)
        lines = ["127.0.0.1 localhost"]
        lines += [f"{self.address(host)} {host}" for host in (CONTROLLER, *self.nodes)]
        self._hosts.write_text("\n".join(lines) + "\n", "ascii")
        socket = folder / "munge.socket"
        settings = {
            "ClusterName": "datrec",
            "SlurmctldHost": f"{CONTROLLER}({control})",
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
            "SrunPortRange": "17100-17999",
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
            for node in self.nodes
        ]
        text.append(f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES State=UP")
        self._conf.write_text("\n".join(text) + "\n", "ascii")
        database = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={socket}",
            "DbdHost": CONTROLLER,
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

    def _network_up(self) -> None:
        self._run("ip", "link", "add", BRIDGE, "type", "bridge")
        self._run("ip", "address", "add", f"{self.address(CONTROLLER)}/24", "dev", BRIDGE)
        self._run("ip", "link", "set", BRIDGE, "up")
        for node in self.nodes:
            outside = f"{node}-br"
            self._run("ip", "netns", "add", node)
            pair = ["type", "veth", "peer", "name", "eth0", "netns", node]
            self._run("ip", "link", "add", outside, *pair)
            self._run("ip", "link", "set", outside, "master", BRIDGE, "up")
            inside = ["ip", "-n", node]
            self._run(*inside, "link", "set", "lo", "up")
            self._run(*inside, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            self._run(*inside, "link", "set", "eth0", "up")

    def _start_munge(self) -> None:
        folder = self.folder
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._run(
            *("munged", "--force", f"--key-file={key}", f"--socket={folder / 'munge.socket'}"),
            *(f"--pid-file={folder / 'munged.pid'}", f"--log-file={folder / 'log' / 'munged'}"),
            f"--seed-file={folder / 'munge.seed'}",
        )

    def _start_database(self) -> None:
        folder, log = self.folder, self.folder / "log" / "mariadb"
        data = folder / "db"
        if not (data / "mysql").exists():
            self._run(
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
        self._wait("mariadbd", lambda: self._quiet(*ping))
        self._on(CONTROLLER, "env", f"MYSQL_UNIX_PORT={folder / 'db.sock'}", "slurmdbd")
        self._wait("slurmdbd", lambda: self._quiet("sacctmgr", "-n", "show", "cluster"))
        self._quiet("sacctmgr", "-i", "add", "cluster", "datrec")

    def _kill_inside(self, node: str) -> None:
        """Kill every process in a node's network namespace."""
        while found := self.run("ip", "netns", "pids", node).stdout.split():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)

    def _on(self, host: str, *command: str) -> None:
        self._run(*self.as_host(host, *command))

    def _run(self, *command: str) -> None:
        # Daemons keep what they inherit: not a pipe of ours, which would never end.
        with (self.folder / "log" / "commands").open("ab") as file:
            done = subprocess.run(
                command, env=self.environment, stdout=file, stderr=file, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {self._log()}")

    def _quiet(self, *command: str) -> bool:
        return self.run(*command).returncode == 0

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up in {seconds:.0f} s: {self._log()}")
            time.sleep(0.1)

    def _log(self) -> str:
        files = (self.folder / "log").iterdir()
        return "\n".join(
            f"{file.name}: {line}"
            for file in sorted(files)
            for line in file.read_text("utf-8", "replace").splitlines()[-5:]
        )


def _end(file: Path) -> None:
    """End the process that a pid file names."""
    try:
        pid = int(file.read_text("ascii"))
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, ValueError):
        pass
    file.unlink(missing_ok=True)


def main() -> int:
    """Bring a cluster up or down."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        print(__doc__, file=sys.stderr)
        return 2
    if why := missing():
        print(f"no Slurm here: {why}", file=sys.stderr)
        return 2
    cluster = Cluster(Path(sys.argv[2]).resolve())
    if sys.argv[1] == "down":
        cluster.down()
        return 0
    begin = time.monotonic()
    cluster.up()
    nodes = ", ".join(cluster.nodes)
    print(f"{nodes} are up after {time.monotonic() - begin:.1f} s; now:")
    print(f"export SLURM_CONF={cluster.folder / 'slurm.conf'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
