"""Requests in, their answers out: those that wait are computed together, in a thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from dat_rec.serve.requests import Body


class BusyError(Exception):
    """More requests wait than the server lets wait."""


class Ask(NamedTuple):
    """A request that waits, and who waits for its answer."""

    body: Body
    answer: asyncio.Future[bytes]


class Lane:
    """Requests that wait, and a thread that takes all of them at once when it is free.

    Args:
        name: of the thread.
        at_once: maximum number of requests that it takes.
        compute: gives the answers of requests, or why there is none.
    """

    def __init__(
        self, name: str, at_once: int, compute: Callable[[Sequence[Ask]], list[bytes | Exception]]
    ) -> None:
        self.waiting: deque[Ask] = deque()
        self._at_once, self._compute = at_once, compute
        self._thread = ThreadPoolExecutor(1, name)
        self._running: asyncio.Task[None] | None = None

    def put(self, ask: Ask) -> None:
        """Let a request wait."""
        self.waiting.append(ask)
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self.waiting:
                number = min(self._at_once, len(self.waiting))
                asked = [self.waiting.popleft() for _ in range(number)]
                # Whoever has hung up needs no answer.
                asked = [one for one in asked if not one.answer.done()]
                results = await loop.run_in_executor(self._thread, self._safely, asked)
                for one, result in zip(asked, results, strict=True):
                    if one.answer.done():
                        continue
                    if isinstance(result, bytes):
                        one.answer.set_result(result)
                    else:
                        one.answer.set_exception(result)
        finally:
            self._running = None

    def _safely(self, asked: Sequence[Ask]) -> list[bytes | Exception]:
        try:
            return self._compute(asked)
        except Exception as error:
            # Whatever it is, those who wait must hear of it.
            return [error] * len(asked)

    def close(self) -> None:
        """Compute no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
