"""HTTP as uvicorn and httptools speak it, with heads that end: in bytes, and in time."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dat_rec.serve.limits import HEAD_BYTES, HEAD_S


class BoundedProtocol(HttpToolsProtocol):
    """A connection: request lines and headers are limited, and each error is a line of JSON."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is no body, and refuse what is too much."""
        if self.transport.is_closing():
            return
        if self._in_head:
            # The first bytes of a body that come along count too: they are few.
            self._head_bytes += len(data)
            if self._deadline is None:
                self._wait_for_head()
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self.send_error(431, f"request line and headers: more than {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """It has ended."""
        self._stop_waiting()
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Whatever comes next is a head again."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.send_error(400, f"{msg} Send HTTP/1.1.")

    def send_error(self, status: int, reason: str) -> None:
        """Answer with a line of JSON, and hang up."""
        if self.cycle is not None and self.cycle.response_started and not self._answered():
            self.transport.close()  # An answer within another's body would be taken for it.
            return
        body = json.dumps({"error": reason}).encode()
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % len(body)
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _answered(self) -> bool:
        return bool(self.cycle.response_complete)

    def _wait_for_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._too_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.send_error(408, f"request line and headers: not there after {HEAD_S:.0f} seconds")
