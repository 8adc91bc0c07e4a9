"""Call a function that may hang, on a disk or on a dead host, and wait for it only so long."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_with_timeout(function: Callable[[], T], timeout_s: float) -> T:
    """Return what ``function`` returns.

    A function that hangs keeps its daemon thread, which ends with the process.

    Args:
        function: called in a thread of its own.
        timeout_s: maximum number of seconds to wait for it.

    Raises:
        TimeoutError: it did not return in time, or raised an error, which Python has printed.
    """
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not results:
        raise TimeoutError(f"no result within {timeout_s} s")
    return results[0]
