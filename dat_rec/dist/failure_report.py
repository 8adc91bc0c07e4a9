"""What a rank that ends leaves behind: a record of the failure in the run's folder, and a line.

The process group begins before there is a run's folder, and ends after it: ``open_run`` fills in
the reporter of the rank's context as soon as it knows the folder.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dat_rec.dist.call_with_timeout import call_with_timeout
from dat_rec.dist.memory_errors import OutOfMemoryError
from dat_rec.errors import DiskError, Failure, StoreError, UserError

DISK_TIMEOUT_S = 5.0
"""Maximum number of seconds that a rank which ends waits for the run's folder."""


@dataclass
class FailureReporter:
    """Reports what this rank knows about a failure that ends it."""

    write: Callable[[Failure], str] | None = None
    """Writes the record. Returns a line for the user; an empty one if another rank's record stays.
    None: there is no run's folder yet."""
    begun: bool = True
    """Whether the run has begun. Before that, bad input is no failure and leaves no record."""
    advice: Callable[[], str] = lambda: "start it again"
    """Returns how to go on with the run."""

    def how_to_go_on(self) -> str:
        """Return what the user can do after the failure."""
        return _in_time(self.advice) or "start it again"

    def report(self, failure: Failure, error: BaseException | None = None) -> str:
        """Write the record of a failure.

        Args:
            failure: what this rank knows.
            error: raised by this rank; takes the line as a note, to be printed below it.

        Returns:
            The line for the user, or an empty one.
        """
        bad_input = isinstance(error, UserError) and not isinstance(
            error, OutOfMemoryError | DiskError | StoreError
        )
        if self.write is None or (not self.begun and (bad_input or failure.kind == "stopped")):
            return ""
        write = self.write
        line = _in_time(lambda: write(failure))
        if line and error is not None:
            error.add_note(line)
        return line


def _in_time(action: Callable[[], str]) -> str:
    """Return what ``action`` returns; an empty text if the run's folder fails, or hangs."""

    def run() -> str:
        # The error that ends this rank says more.
        with suppress(OSError, UserError):
            return action()
        return ""

    try:
        return call_with_timeout(run, DISK_TIMEOUT_S)
    except TimeoutError:
        return ""
