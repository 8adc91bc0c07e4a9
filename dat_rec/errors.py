"""Errors that a user can mend: one line that says what, where and how to cure it."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FailureKind = Literal["error", "died", "lost", "stopped"]
STOPPED = 75
"""The exit code of a run that was asked to stop, and has stopped with a checkpoint."""
EXIT_FILE = "DAT_REC_EXIT_FILE"
"""Environment variable: a file to which a rank that ends with exit code 2 or 75 adds a line with
that code. torchrun's own code is 1 for all of them; what has started it learns here whether to
start it again."""
TOLD_CODES = (2, STOPPED)


def leave_code(code: object) -> None:
    """Tell what has started this rank that it refused its input, or stopped as it was asked to."""
    file = os.environ.get(EXIT_FILE)
    if file and code in TOLD_CODES:
        # Without it, the worst is a restart for nothing; this rank must end all the same.
        with suppress(OSError), Path(file).open("a", encoding="ascii") as codes:
            codes.write(f"{code}\n")


@dataclass(frozen=True)
class Failure:
    """What one rank knows of the failure that ends all."""

    kind: FailureKind
    """``error``: the very error; ``died``: a rank does not answer the others; ``lost``: whoever
    holds the store does not, or nobody knows; ``stopped``: somebody asked for it."""
    rank: int | None
    """That failed; none if all refuse the same, or nobody knows."""
    reason: str
    cause: str = ""
    """What the rank that tells of it has seen itself: in most cases a connection that broke."""

    def __str__(self) -> str:
        """As another rank tells it."""
        if self.kind in ("died", "lost") and self.cause:
            return f"{self.reason} (seen here: {self.cause})"
        if self.rank is None or self.kind not in ("error", "stopped"):
            return self.reason
        return f"rank {self.rank} {'failed' if self.kind == 'error' else 'ended'}: {self.reason}"


class UserError(Exception):
    """Bad input: a file, row, field, configuration, checkpoint or cluster.

    The command line prints the message as one line, without a traceback, and exits
    with code 2. Anything else that escapes is a bug and keeps its traceback.
    """


class NoRowsError(UserError):
    """What was asked for of a log has no interactions: there is no such partition, or it is empty.

    `dat-rec daily` takes it for a day on which nothing happened.
    """


class SharedError(UserError):
    """The same error on every rank, raised at the same point: the first one speaks for all."""


class SupersededError(SharedError):
    """Another start of the same run has taken its folder over. Exit code 1, on every rank."""


class DiskError(SharedError):
    """A disk that is full, or away, has not done its work for as long as was waited for it.

    Nothing that the user gave is wrong, and another start may go on. Exit code 1, on every rank: a
    scheduler may start the job again.
    """


class StoreError(UserError):
    """An object store has not answered for as long as was waited for it.

    Nothing that the user gave is wrong, and another start may go on. Exit code 1.
    """


class SharedStoreError(SharedError, StoreError):
    """The same, raised on every rank at the same point. Exit code 1, on every rank."""


def shared(error: UserError, words: str = "") -> SharedError:
    """Return an error of one rank as the one that all ranks raise, with the same exit code.

    Args:
        error: of one rank.
        words: in place of the error's own.
    """
    kind = SharedError
    if isinstance(error, DiskError):
        kind = DiskError
    elif isinstance(error, StoreError):
        kind = SharedStoreError
    return kind(words or str(error))


class RankError(Exception):
    """Another rank failed or died, and this one has stopped. The message names it. Exit code 1."""


class StoppedError(Exception):
    """Asked to stop (SIGTERM), and stopped with a checkpoint. Exit code 75, on every rank."""
