"""The export that is served: opened and checked, and another one in its place without a pause.

A request is answered from one ``Served``, taken once. A new export is opened beside the old one,
in a thread of its own, and then stands in its place; one that is damaged does not, and the old one
goes on serving.
"""

import asyncio
import fcntl
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.retrieval.answer import user_rows
from dat_rec.retrieval.exported import MANIFEST
from dat_rec.retrieval.option_names import FIELDS
from dat_rec.retrieval.queries import as_ids
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.restrictions import ItemRules, Restrictions
from dat_rec.serve.metrics import Metrics, say
from dat_rec.storage.address import Address, Location
from dat_rec.storage.snapshot import pinned

REST = 3.0
"""For how many times as long as an export took to be opened none is opened: whoever reloads again
and again gets a quarter of a core for it, and no more."""
AGAIN_S = 60.0
"""Seconds after which an export that was refused is tried again."""
USERS = 2**16
"""Maximum number of users whose rows and vectors are kept."""
RULES, RULES_BYTES, RULES_S = 32, 2**28, 10.0
"""Maximum number of filters whose items are kept, their bytes, and for how many seconds: what
``now()`` says in a filter is as old at most."""


class Served:
    """An export in memory, which needs its folder no longer.

    Args:
        path: the export's.
        filter_s: maximum seconds of a filter.

    Raises:
        UserError: as ``Recommender.open``, or it was replaced while it was read.
    """

    def __init__(self, path: Location, filter_s: float) -> None:
        self.version = version(path)
        # What lies behind a link now is read, even if the link is changed meanwhile.
        where = path.resolve() if isinstance(path, Path) else path
        self.recommender = Recommender.open(where, trusted=False).hold(filter_s, FIELDS)
        if version(path) != self.version:
            raise UserError(f"{path}: was replaced while it was read")
        files = json.dumps(sorted(self.recommender.manifest.sha256.items()))
        self.id = hashlib.sha256(files.encode()).hexdigest()[:16]
        """Of what all files hold."""
        self.user = lru_cache(USERS)(self._user)
        """(row, vector) of a user's id, of those who asked lately; UserError for no such id."""
        self._rules: OrderedDict[object, tuple[float, ItemRules]] = OrderedDict()
        kept = RULES_BYTES // (8 * max(1, len(self.recommender.item_ids)))
        self._kept = max(1, min(RULES, kept))

    def _user(self, name: int | str) -> tuple[int, NDArray[np.float32]]:
        """The row of a user, and the (1, D) vector, which is encoded alone."""
        recommender = self.recommender
        ids = as_ids("user_ids", "user_id", pa.array([name]), recommender.user_ids.type)
        rows = user_rows(recommender.export, ids)
        return int(rows[0]), recommender.vectors_of(rows, 1)

    def item_rules(self, wanted: Restrictions) -> ItemRules:
        """As of the recommender; the last ones are kept. One thread calls.

        Raises:
            UserError: as there, or a filter takes too long.
        """
        key = (wanted.filter, tuple(wanted.quotas.items()))
        found = self._rules.get(key) if wanted.allow is None else None
        if found is not None and time.monotonic() - found[0] < RULES_S:
            return found[1]
        rules = self.recommender.item_rules(wanted)
        if wanted.allow is None:
            self._rules[key] = time.monotonic(), rules
            self._rules.move_to_end(key)
            while len(self._rules) > self._kept:
                self._rules.popitem(last=False)
        return rules


def version(path: Location) -> str:
    """What tells apart the exports that one path has held.

    Raises:
        UserError: there is none, or the store does not answer.
    """
    if isinstance(path, Address):
        found = pinned(path, MANIFEST)
        assert isinstance(found, Address)
        return repr(sorted((found.pins or {}).items()))
    folder = path.resolve()
    try:
        manifest = (folder / MANIFEST).stat()
        # A folder that is being filled anew has another time, too.
        return repr((str(folder), folder.stat().st_ino, manifest.st_ino, manifest.st_mtime_ns))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}: make an export with `dat-rec export`"
        ) from error


@contextmanager
def _turn(file: Path | None) -> Iterator[None]:
    """Wait until no other process has its turn; who is killed has none."""
    if file is None:
        yield
        return
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


class Current:
    """The export that is served now.

    Args:
        path: where exports stand, one after the other.
        filter_s: maximum seconds of a filter.
        metrics: where reloads are counted.
        turn: a file for which servers of one export take turns to open a new one.

    Raises:
        UserError: the first one cannot be opened.
    """

    def __init__(
        self, path: Location, filter_s: float, metrics: Metrics, turn: Path | None = None
    ) -> None:
        self._path, self._filter_s, self._metrics, self._turns = path, filter_s, metrics, turn
        self.served = Served(path, filter_s)
        metrics.export(self.served.id)
        self._thread = ThreadPoolExecutor(1, "reload")
        self._turn = asyncio.Lock()
        self._refused: tuple[str, float] | None = None
        self._rested = time.monotonic()

    async def reload(self) -> bool:
        """Serve what stands at the path now; False where that is served already.

        Who asks while another one is opened, or too soon after, waits; all who wait get the same.

        Raises:
            UserError: it is refused, and the old one goes on serving.
        """
        async with self._turn:
            loop = asyncio.get_running_loop()
            found = None
            try:
                found = await loop.run_in_executor(self._thread, version, self._path)
                if found == self.served.version:
                    return False
                await asyncio.sleep(max(0.0, self._rested - time.monotonic()))
                served = await loop.run_in_executor(self._thread, self._open)
            except Exception as error:
                # Whatever is wrong with a new export must not end the server of the old one.
                self._refused = None if found is None else (found, time.monotonic())
                self._metrics.reloads.labels("refused").inc()
                reason = str(error) if isinstance(error, UserError) else repr(error)
                say(f"refused a new export, and goes on with {self.served.id}: {reason}")
                raise UserError(f"{reason} (goes on with {self.served.id})") from error
            before, self.served, self._refused = self.served.id, served, None
            self._metrics.reloads.labels("done").inc()
            self._metrics.export(served.id)
            say(f"serves export {served.id} in place of {before}")
            return True

    def _open(self) -> Served:
        with _turn(self._turns):
            begin = time.monotonic()
            try:
                return Served(self._path, self._filter_s)
            finally:
                end = time.monotonic()
                self._rested = end + REST * (end - begin)

    async def watch(self, every_s: float) -> None:
        """Look for a new export again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            try:
                found = await loop.run_in_executor(self._thread, version, self._path)
                if found != self.served.version and not self._just_refused(found):
                    await self.reload()
            except UserError:
                pass  # It is said; a path that holds nothing for a moment is being replaced.
            except Exception as error:
                say(f"could not look for a new export: {error!r}")

    def _just_refused(self, found: str) -> bool:
        if self._refused is None or self._refused[0] != found:
            return False
        return time.monotonic() - self._refused[1] < AGAIN_S

    def close(self) -> None:
        """Open no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
