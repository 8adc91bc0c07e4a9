"""Several hosts on this machine: network namespaces with names and addresses of their own.

Each host has a network namespace on one bridge, and what runs there sees its host name and an
/etc/hosts with all of them. Disks and memory are this machine's. Needs root and Debian's
iproute2.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def missing(programs: Sequence[str] = ("ip",)) -> str:
    """Why there can be no such hosts, with these programs, here; nothing if there can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    lacking = [name for name in programs if not shutil.which(name, path=PATH)]
    return f"{', '.join(lacking)}: not installed: make slurm-packages" if lacking else ""


class Hosts:
    """Hosts, and a controller, which is this machine itself as seen by them.

    Args:
        folder: for files; made if missing. Short, since Unix sockets may be in it.
        number: of hosts.
        network: a small number; hosts of another network may exist beside these.
    """

    def __init__(self, folder: Path, number: int, network: int = 78) -> None:
        self.folder = folder
        self.names = [f"dat{network}{chr(ord('a') + at)}" for at in range(number)]
        self.controller = f"dat{network}"
        self._network = network
        self._file = folder / "hosts"

    def address(self, host: str) -> str:
        """IPv4 address of a host or of the controller."""
        last = 1 if host == self.controller else 10 + self.names.index(host)
        return f"10.{self._network}.0.{last}"

    def up(self) -> None:
        """Make the hosts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = (self.controller, *self.names)
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in names)]
        self._file.write_text("\n".join(lines) + "\n", "ascii")
        bridge = self.controller
        self.do("ip", "link", "add", bridge, "type", "bridge")
        self.do("ip", "address", "add", f"{self.address(bridge)}/24", "dev", bridge)
        self.do("ip", "link", "set", bridge, "up")
        for host in self.names:
            outside = _outside(host)
            self.do("ip", "netns", "add", host)
            pair = ["type", "veth", "peer", "name", "eth0", "netns", host]
            self.do("ip", "link", "add", outside, *pair)
            self.do("ip", "link", "set", outside, "master", bridge, "up")
            inside = ["ip", "-n", host]
            self.do(*inside, "link", "set", "lo", "up")
            self.do(*inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            self.do(*inside, "link", "set", "eth0", "up")

    def down(self) -> None:
        """Kill what runs on the hosts, and remove them."""
        for host in self.names:
            self._kill_inside(host)
            self.run("ip", "netns", "delete", host)
            self.run("ip", "link", "delete", _outside(host))
        self.run("ip", "link", "delete", self.controller)

    def cut(self, host: str) -> None:
        """Cut a host's link."""
        self.do("ip", "link", "set", _outside(host), "down")

    def mend(self, host: str) -> None:
        """Mend a host's link."""
        self.do("ip", "link", "set", _outside(host), "up")

    def kill(self, host: str) -> None:
        """Cut a host's power, as it were: no word gets out, and every process is killed."""
        self.cut(host)
        self._kill_inside(host)

    def _kill_inside(self, host: str) -> None:
        while found := self.run("ip", "netns", "pids", host).stdout.split():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)

    def at(self, host: str, *command: str, mounts: str = "true") -> list[str]:
        """``command`` as run on a host.

        Args:
            host: one of ``names``, or the controller.
            command: what to run.
            mounts: a shell command before it, whose mounts only that command will see.
        """
        inside = ["nsenter", f"--net=/run/netns/{host}"] if host in self.names else []
        # Not `ip netns exec`, which remounts /sys: slurmd would not find its cgroups.
        script = f'hostname "$0" && mount --bind "$1" /etc/hosts && {mounts} && shift && exec "$@"'
        own = ["unshare", "--uts", "--mount", "bash", "-c", script, host, str(self._file)]
        return [*inside, *own, *command]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the commands."""
        return os.environ | {"PATH": PATH}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine; it may fail."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )

    def do(self, *command: str) -> None:
        """Run a command on this machine, which must succeed; it may leave a daemon behind.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        log = self.folder / "commands.log"
        # Daemons keep what they inherit: not a pipe of ours, which would never end.
        with log.open("ab") as file:
            done = subprocess.run(
                command, env=self.environment, stdout=file, stderr=file, check=False
            )
        if done.returncode:
            said = log.read_text("utf-8", "replace").splitlines()[-5:]
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {said}")


def _outside(host: str) -> str:
    """The name, on this machine, of a host's link."""
    return f"{host}-link"
