"""The right to write below an address: one writer at a time, and a dead one's right passes on.

``writer.json`` there names the writer, who writes it anew every few seconds. Another one waits to
see whether it changes; so no clock of two machines is compared. Each write is conditional on the
one before, so that of two writers one learns that it has lost the right.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dat_rec.disk import say
from dat_rec.errors import UserError
from dat_rec.storage.address import Address, Pin
from dat_rec.storage.client import client
from dat_rec.storage.problems import ChangedError, MissingError
from dat_rec.storage.read import PinnedFile

WRITER = "writer.json"
RENEW_S = 5.0
"""Seconds between two writes of a living writer."""
DEAD_S = 30.0
"""Seconds without one after which a writer is taken for dead."""


class Lease:
    """The right of one writer.

    Args:
        folder: below which it writes.
        token: names the writer.
    """

    def __init__(self, folder: Address, token: str) -> None:
        self.token = token
        self._folder, self._path = folder, folder / WRITER
        self._client = client(folder)
        self._number = 0
        self._pin = self._take()
        self._lost = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Refuse to write any more if another writer has taken the right over.

        Raises:
            UserError: it has, or the store does not tell.
        """
        if self._lost:
            raise UserError(f"{self._folder}: {self._lost}: nothing was published")

    def close(self) -> None:
        """Give the right back, if it is still ours."""
        self._stopped.set()
        self._thread.join()
        with suppress(MissingError):
            if not self._lost and self._client.head(self._path).same(self._pin):
                self._client.delete([self._path])

    def _text(self) -> bytes:
        self._number += 1
        facts = {"token": self.token, "host": platform.node(), "pid": os.getpid()}
        return json.dumps(facts | {"number": self._number}).encode()

    def _take(self) -> Pin:
        text = self._text()
        while True:
            with suppress(ChangedError):
                return put_once(self._path, text, None)
            with suppress(MissingError, ChangedError):
                before = self._client.head(self._path)
                writer = _read(self._path.with_pins({self._path.key: before}))
                self._wait_for_death(before, writer)
                pin = put_once(self._path, text, before)
                say(f"{self._folder}: its writer ({writer}) has died: taken over")
                return pin

    def _wait_for_death(self, before: Pin, writer: str) -> None:
        say(f"{self._folder}: {writer} was writing it: waiting {DEAD_S:g} s for a sign of life")
        end = time.monotonic() + DEAD_S
        while time.monotonic() < end:
            time.sleep(min(RENEW_S, DEAD_S) / 5)
            if self._client.head(self._path) != before:
                raise UserError(
                    f"{self._folder}: another process is writing it ({writer}): wait for it, or "
                    "name another address"
                )

    def _renew(self) -> None:
        while not self._stopped.wait(RENEW_S):
            try:
                self._pin = put_once(self._path, self._text(), self._pin)
            except (ChangedError, MissingError):
                self._lost = "another writer has taken it over"
                return
            except UserError as error:
                self._lost = str(error)
                return


def put_once(path: Address, data: bytes, over: Pin | None) -> Pin:
    """Write an object in place of a version of it, or of none.

    A write that was done and not answered, and is tried again, is found to be done.

    Raises:
        ChangedError: somebody else has written it.
    """
    try:
        return client(path).put(path, data, create=over is None, over=over)
    except ChangedError:
        file = PinnedFile(path.with_pins(None))
        if file.read() == data:
            return file.pin
        raise


def _read(path: Address) -> str:
    """The writer, in words."""
    found: Any = None
    with suppress(ValueError):
        found = json.loads(PinnedFile(path).read())
    if not isinstance(found, dict):
        return "somebody"
    return f"process {found.get('pid')} on {found.get('host')}"


@contextmanager
def lease(folder: Address) -> Iterator[Lease]:
    """Hold the right to write below ``folder`` during the block.

    Raises:
        UserError: another process is writing there.
    """
    held = Lease(folder, f"data-{uuid.uuid4().hex}")
    try:
        yield held
    finally:
        held.close()
