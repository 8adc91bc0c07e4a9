"""Let one start of a run at a time write in its folder, whatever becomes of locks and networks.

Rank 0 holds ``RUN/.lock`` as long as it lives. But a network file system may keep the lock of a
dead host for a minute and more, and a host that is cut off may go on training after the others have
started again without it. So every start writes a token of its own to ``RUN/.writer``, and checks
that it still stands there before it publishes or removes anything (a fencing token).
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
"""File that the process which trains in the folder holds locked."""
WRITER = ".writer"
"""File with the token of the start that writes in the folder, its host and its process."""
JOB = "DAT_REC_JOB"
"""Environment variable: the scheduler's unique name for this job, as in ``slurm-1234``, which stays
the same when the scheduler starts it again. A job started again resumes its run unasked."""
WAIT_S = 15.0
"""Maximum seconds to wait for the lock of an earlier start of the same job; then it is ignored."""
POLL_S = 0.2
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks."""


def read_writer(run: Path) -> dict[str, Any]:
    """Return what ``RUN/.writer`` says of the start that writes in the folder; {} without one.

    Raises:
        UserError: the file is no JSON.
    """
    path = run / WRITER
    found = read_json(path, "who writes here") if path.exists() else {}
    return found if isinstance(found, dict) else {}


def is_locked(run: Path) -> bool:
    """Return whether a process trains in the folder: a shared lock is tried, and let go at once.

    A file system without locks cannot tell: the answer is no.
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
    """The right of one start to write in a run's folder; only rank 0 takes and checks it.

    Args:
        run: the run's folder.
        token: names this start; no other start has it.
        launchers: the torchrun processes that started its ranks, of ``RankContext.launchers``.
        command: what a user gives to go on with the run.
        wait_s: maximum seconds to wait for the lock of an earlier start of the same job.
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
        """Whether this start has taken the right; it may have lost it since."""

    @property
    def mark(self) -> str:
        """A short name of this start, for the names of its unfinished folders."""
        return self.token[:8]

    def take(self, *, restarted: bool) -> None:
        """Become the start that writes; an earlier one stops at its next check.

        Args:
            restarted: whether this is the same job again, which takes the folder over from an
                earlier start that still holds the lock.

        Raises:
            UserError: another process trains here.
            SupersededError: the job was started again elsewhere, without these hosts.
        """
        before = read_writer(self._run)
        replaced = set(before.get("replaced", ()))
        if restarted and self._launchers and replaced.issuperset(self._launchers):
            raise SupersededError(self._superseded_by(before))
        self._run.mkdir(parents=True, exist_ok=True)
        if self._lock is None:  # a file opened anew would let the lock go that an earlier try took
            self._lock = (self._run / LOCK).open("w")
        if self._is_held() and not restarted:
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
                # Without it, a torchrun that was left behind would restart its ranks and take the
                # run back.
                "replaced": sorted(replaced),
            },
        )
        self.taken = True

    def check(self) -> None:
        """Check that no other start has taken the folder over.

        Raises:
            SupersededError: one has; the message names its host.
        """
        before = read_writer(self._run)
        if before.get("token") != self.token:
            raise SupersededError(self._superseded_by(before))
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
        """Take the lock if it is free, until this process ends; return whether it is ours."""
        if self._lock is not None and not self._has_lock:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._has_lock = True
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                # A file system without locks: the token alone must protect the folder.
                self._has_lock = True
        return self._has_lock

    def _is_held(self) -> bool:
        """Return whether somebody trains here; `dat-rec status` has the lock for a moment only."""
        for _ in range(3):
            if self._try_lock():
                return False
            time.sleep(POLL_S / 4)
        return True

    def _superseded_by(self, writer: dict[str, Any]) -> str:
        if "token" not in writer:
            return f"{self._run}: {WRITER}, which says who writes here, is gone: this start stops"
        return (
            f"{self._run}: another start of this run, on {writer.get('host')} since "
            f"{writer.get('time')}, writes its checkpoints now: this one stops"
        )

    def _say(self, what: str) -> None:
        print(f"{self._run}: {what}", file=sys.stderr, flush=True)
