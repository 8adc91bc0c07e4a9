"""Record in RUN/failure.json what failed first in a run; whichever rank still lives writes it.

Every rank that ends reports what it knows. A rank that failed itself has the error, one that asked
the others knows who did not answer, and one that lost touch knows nothing. The file keeps the best
of these reports, and of equals the first.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dat_rec.checkpoint.listing import usual_command
from dat_rec.dist.call_with_timeout import call_with_timeout
from dat_rec.errors import Failure, FailureKind, UserError
from dat_rec.files import PARTIAL_SUFFIX, read_json, write_json
from dat_rec.runs.fence import is_locked, read_writer
from dat_rec.storage.address import Address

FAILURE = "failure.json"
SUMMARY = "train.json"
COMMAND = "DAT_REC_COMMAND"
"""Environment variable: the command that a user gives again to go on with the run, where the job
was not started by ``dat-rec train …`` or ``torchrun … -m dat_rec train …`` as typed."""
MIRROR_TIMEOUT_S = 3.0
"""Maximum number of seconds for copying the report to a store."""
WORTH: dict[FailureKind, int] = {"stopped": 0, "lost": 1, "died": 2, "error": 3}
"""Of two reports of one failure, the one of the larger worth is kept."""


@dataclass(frozen=True)
class FailureRecord:
    """Writes one rank's report of the failure that ends a start of the run.

    Args:
        run: the run's folder.
        token: of this start; a start that was taken over writes nothing.
        command: to go on with the run; empty for the one that was given, and what to add to it.
        rank: this process's.
        hosts: host name of each rank, by rank.
        mirror: where the report is copied to; None: nowhere.
        begun: whether this start has taken the folder. If not, it writes only where nobody trains.
    """

    run: Path
    token: str
    command: str
    rank: int
    hosts: tuple[str, ...]
    mirror: Address | None = None
    begun: bool = True

    def __call__(self, failure: Failure) -> str:
        """Write the report, unless there is a better one, or the run has ended well.

        Returns:
            A line for the user if this report is the one that is kept; else "".
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
        self._copy(record)
        return f"{in_one_line(record)}; to go on: {record['command']}"

    def _copy(self, record: dict[str, Any]) -> None:
        """Copy the report to the mirror, by the rank that has written it: rank 0 may be dead."""
        if self.mirror is not None:
            # Seldom needed, and not at once to load.
            from dat_rec.storage.client import client

            path, text = self.mirror / FAILURE, json.dumps(record, indent=2).encode()

            def send() -> None:
                # The report itself is what counts.
                with suppress(UserError):
                    client(path).put(path, text)

            with suppress(TimeoutError):
                call_with_timeout(send, MIRROR_TIMEOUT_S)

    def _may_write(self) -> bool:
        ours = read_writer(self.run).get("token") == self.token
        return ours or (not self.begun and not is_locked(self.run))

    def _keep(self, record: dict[str, Any]) -> bool:
        path = self.run / FAILURE
        partial = path.with_name(f"{FAILURE}.{self.token}-{self.rank}{PARTIAL_SUFFIX}")
        write_json(partial, record)
        try:
            # If several ranks write at once, only one of them makes the link.
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
    """Return the report in the run's folder; None if there is none that can be read."""
    path = run / FAILURE
    try:
        found = read_json(path, "the run's failure") if path.exists() else None
    except UserError:
        return None
    return found if isinstance(found, dict) else None


def forget_failure(run: Path) -> None:
    """Remove the report: the run goes on, or has ended well."""
    (run / FAILURE).unlink(missing_ok=True)


def in_one_line(record: dict[str, Any]) -> str:
    """Return a report in words: which rank, on which host, and why."""
    what = "stopped" if record.get("kind") == "stopped" else "first failure"
    rank, host = record.get("rank"), record.get("host")
    # No rank is to blame for what all refuse alike, or stop for.
    who = "" if rank is None else f"rank {rank} on {host}: "
    cause = record.get("cause")
    seen = f" (seen by rank {record.get('told_by')}: {cause})" if cause else ""
    return f"{what}: {who}{record.get('reason')}{seen}"


def _worth(record: dict[str, Any] | None) -> int:
    kind = (record or {}).get("kind")
    return next((worth for name, worth in WORTH.items() if name == kind), -1)
