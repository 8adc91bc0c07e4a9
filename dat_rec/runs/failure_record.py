"""What failed first in a run, left in its folder by whichever rank lives to write it.

Every rank that ends tells what it knows, and knows the others' errors only in part: one that
failed itself has the error, one that asked the others knows who did not answer, one that lost
touch knows nothing. ``RUN/failure.json`` keeps the best of these, and of equals the first.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dat_rec.checkpoint.listing import usual_command
from dat_rec.errors import Failure, FailureKind, UserError
from dat_rec.files import PARTIAL_SUFFIX, read_json, write_json
from dat_rec.runs.fence import is_locked, read_writer

FAILURE = "failure.json"
SUMMARY = "train.json"
COMMAND = "DAT_REC_COMMAND"
"""Environment variable: the whole command that has started the job, if it was not typed as
``dat-rec train …`` or ``torchrun … -m dat_rec train …``: what to give again to go on."""
WORTH: dict[FailureKind, int] = {"stopped": 0, "lost": 1, "died": 2, "error": 3}
"""Which of two accounts of one failure is kept: the larger."""


@dataclass(frozen=True)
class FailureRecord:
    """Writes a start's failure for one rank.

    Args:
        run: the run's folder.
        token: of this start; one that was taken over keeps silent.
        command: to go on with the run; nothing for the one that was given, and what to add.
        rank: this one.
        hosts: every rank's.
        begun: whether this start has taken the folder; before, nobody else may train there.
    """

    run: Path
    token: str
    command: str
    rank: int
    hosts: tuple[str, ...]
    begun: bool = True

    def __call__(self, failure: Failure) -> str:
        """Leave the record, unless there is a better one, or the run has ended well.

        Returns:
            A line for the user where this record is the one that stays; else nothing.
        """
        if not self._may_write() or (self.run / SUMMARY).exists():
            return ""
        blamed = failure.rank
        record = {
            "start": self.token,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "kind": failure.kind,
            "rank": blamed,
            "host": None if blamed is None else self.hosts[blamed],
            "reason": " ".join(failure.reason.split())[:2000],
            "cause": failure.cause,
            "told_by": self.rank,
            "command": self.command or usual_command(self.run),
        }
        if not self._keep(record):
            return ""
        return f"{in_one_line(record)}; to go on: {record['command']}"

    def _may_write(self) -> bool:
        ours = read_writer(self.run).get("token") == self.token
        return ours or (not self.begun and not is_locked(self.run))

    def _keep(self, record: dict[str, Any]) -> bool:
        path = self.run / FAILURE
        partial = path.with_name(f"{FAILURE}.{self.token}-{self.rank}{PARTIAL_SUFFIX}")
        write_json(partial, record)
        try:
            # Of several ranks that write at once, only one can be the first.
            os.link(partial, path)
        except FileExistsError:
            there = read_failure(self.run)
            same_start = there is not None and there.get("start") == record["start"]
            if same_start and _worth(there) >= _worth(record):
                return False
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return True


def read_failure(run: Path) -> dict[str, Any] | None:
    """The record that stands in the run's folder, if there is one that can be read."""
    path = run / FAILURE
    try:
        found = read_json(path, "the run's failure") if path.exists() else None
    except UserError:
        return None
    return found if isinstance(found, dict) else None


def forget_failure(run: Path) -> None:
    """Remove it: the run goes on, or has ended well."""
    (run / FAILURE).unlink(missing_ok=True)


def in_one_line(record: dict[str, Any]) -> str:
    """A record for the user: who, where and how."""
    what = "stopped" if record.get("kind") == "stopped" else "first failure"
    rank, host = record.get("rank"), record.get("host")
    # What all refuse alike, or stop for, is nobody's.
    who = "" if rank is None else f"rank {rank} on {host}: "
    cause = record.get("cause")
    seen = f" (seen by rank {record.get('told_by')}: {cause})" if cause else ""
    return f"{what}: {who}{record.get('reason')}{seen}"


def _worth(record: dict[str, Any] | None) -> int:
    kind = (record or {}).get("kind")
    return next((worth for name, worth in WORTH.items() if name == kind), -1)
