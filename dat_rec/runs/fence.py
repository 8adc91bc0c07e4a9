"""One start of a run writes in its folder at a time, whatever becomes of locks and networks.

The first rank holds ``RUN/.lock`` as long as it lives. But a network file system may keep the
lock of a dead host for a minute and more, and a host that is cut from the others may go on
training while they have started again without it. So every start leaves a token of its own in
``RUN/.writer``, and looks whether it still stands there before it publishes or removes anything.
"""

import errno
import fcntl
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from dat_rec.errors import SupersededError, UserError
from dat_rec.files import read_json, write_json

LOCK = ".lock"
"""Locked by the process that trains in the folder."""
WRITER = ".writer"
"""Holds the token of the start that writes in the folder, and says who that is."""
JOB = "DAT_REC_JOB"
"""Environment variable: the scheduler's name for this job (as in ``slurm-1234``), unique, and the
same when the scheduler starts it again. A job started again goes on with its run unasked."""
WAIT_S = 15.0
"""In which the lock of an earlier start of the same job must come free, or is passed over."""
POLL_S = 0.2
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def read_writer(run: Path) -> dict[str, Any]:
    """What ``RUN/.writer`` says of the start that writes in the folder; nothing if there is none.

    Raises:
        UserError: it is no JSON.
    """
    path = run / WRITER
    found = read_json(path, "who writes here") if path.exists() else {}
    return found if isinstance(found, dict) else {}


def is_locked(run: Path) -> bool:
    """Whether a process trains in the folder; a shared lock is tried, and let go at once.

    A file system without locks cannot tell: there nobody is seen.
    """
    lock = run / LOCK
    if not lock.exists():
        return False
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False


class Fence:
    """One start's right to write in a run's folder; only the first rank takes and checks it.

    Args:
        run: the run's folder.
        token: this start's, which no other has.
        launchers: the torchrun processes that have started its ranks, by ``RankContext.launchers``.
        command: what to give to go on with the run.
        wait_s: how long to wait for the lock of an earlier start of the same job.
    """

    def __init__(
        self,
        run: Path,
        token: str,
        launchers: tuple[str, ...],
        command: str,
        wait_s: float = WAIT_S,
    ) -> None:
        self._run = run
        self.token = token
        self._launchers = launchers
        self.command = command
        self._wait_s = wait_s
        self._lock: IO[str] | None = None
        self._has_lock = False
        self.taken = False
        """Whether this start has had the right, which it may have lost since."""

    @property
    def mark(self) -> str:
        """A short name that stands in those of this start's unfinished folders."""
        return self.token[:8]

    def take(self, *, restarted: bool) -> None:
        """Become the start that writes; one before it stops at its next look.

        Args:
            restarted: whether this is the same job again, which need not leave the folder to an
                earlier start that holds its lock.

        Raises:
            UserError: another process trains here.
            SupersededError: the others of this job have started it again without these hosts.
        """
        before = read_writer(self._run)
        replaced = set(before.get("replaced", ()))
        if restarted and self._launchers and replaced.issuperset(self._launchers):
            raise SupersededError(self._told(before))
        self._run.mkdir(parents=True, exist_ok=True)
        if self._lock is None:  # a file opened anew would let the lock go that an earlier try took
            self._lock = (self._run / LOCK).open("w")
        if self._is_held_for_long() and not restarted:
            raise UserError(
                f"{self._run}: another process trains here: wait for it or stop it, or choose "
                "another --out"
            )
        self._wait_for_lock()
        replaced = (replaced | set(before.get("launch", ()))) - set(self._launchers)
        write_json(
            self._run / WRITER,
            {
                "token": self.token,
                "host": platform.node(),
                "pid": os.getpid(),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "job": os.environ.get(JOB, ""),
                "command": self.command,
                "launch": list(self._launchers),
                # A torchrun left behind would start its ranks again, and take the run back.
                "replaced": sorted(replaced),
            },
        )
        self.taken = True

    def check(self) -> None:
        """Refuse to write where another start writes now.

        Raises:
            SupersededError: says who.
        """
        before = read_writer(self._run)
        if before.get("token") != self.token:
            raise SupersededError(self._told(before))
        self._try_lock()

    def _wait_for_lock(self) -> None:
        if self._has_lock:
            return
        self._say(f"an earlier start of this job holds {LOCK}: waiting {self._wait_s:.0f} s for it")
        deadline = time.monotonic() + self._wait_s
        while not self._try_lock() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not self._has_lock:
            self._say(f"still held: going on without {LOCK}; the earlier start can write no more")

    def _try_lock(self) -> bool:
        """Take the lock if it is free; once taken it stays until this process ends."""
        if self._lock is not None and not self._has_lock:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._has_lock = True
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                # A file system without locks: the token alone must do.
                self._has_lock = True
        return self._has_lock

    def _is_held_for_long(self) -> bool:
        """Whether somebody trains here; who only looks (`dat-rec status`) has done so soon."""
        for _ in range(3):
            if self._try_lock():
                return False
            time.sleep(POLL_S / 4)
        return True

    def _told(self, writer: dict[str, Any]) -> str:
        if "token" not in writer:
            return f"{self._run}: {WRITER}, which says who writes here, is gone: this start stops"
        return (
            f"{self._run}: another start of this run, on {writer.get('host')} since "
            f"{writer.get('time')}, writes its checkpoints now: this one stops"
        )

    def _say(self, what: str) -> None:
        print(f"{self._run}: {what}", file=sys.stderr, flush=True)
