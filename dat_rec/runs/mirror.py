"""Copies of a run's checkpoints in a store, made behind training (back: ``from_mirror.py``).

A thread of rank 0 looks for what is new in the run's folder. A checkpoint's files go below a new
prefix of ``MIRROR/checkpoints/step-N``, and its manifest comes last, so that it is there whole or
not at all. A store that is away delays no step: the next look tries again.
"""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from dat_rec.checkpoint.listing import DIGESTS, checkpoint_folder, checkpoints
from dat_rec.config import TrainConfig, differences, from_json, may_change_on_resume
from dat_rec.disk import say
from dat_rec.errors import StoppedError, SupersededError, UserError
from dat_rec.files import PARTIAL_SUFFIX, sha256
from dat_rec.runs.failure_record import FAILURE, SUMMARY
from dat_rec.runs.run_folder import OpenRun
from dat_rec.runs.validations import VALIDATIONS
from dat_rec.storage.address import Address, below
from dat_rec.storage.client import client
from dat_rec.storage.read import exists, read_json
from dat_rec.storage.snapshot import MANIFEST, Manifest, ManifestFile, read_manifest

LOOK_S = 1.0
"""Seconds between two looks at the run's folder."""
CONFIG = "config.json"
GONE = (0, 0)
KEPT = (CONFIG, "schema.json", "plan.json", "plan.txt", "start.txt", VALIDATIONS, SUMMARY, FAILURE)
"""Files beside the checkpoints that are copied."""


@contextmanager
def mirrored(run: OpenRun) -> Iterator[None]:
    """Copy the run's checkpoints behind the block, on rank 0; at its end, wait for the last.

    It is not waited for after a failure, nor longer than a store that is away is tried.
    """
    mirror = run.config.mirror
    if not isinstance(mirror, Address) or not run.context.is_rank_zero:
        yield
        return
    copier = Mirror(run, mirror)
    try:
        yield
    except StoppedError:
        copier.close(wait=True)
        raise
    except BaseException:
        copier.close(wait=False)
        raise
    copier.close(wait=True)


class Mirror:
    """Copies what is new in the run's folder to a store.

    Args:
        run: the run, whose fence is asked before anything is written.
        address: of the copies.
    """

    def __init__(self, run: OpenRun, address: Address) -> None:
        self._run, self._folder, self._address = run, run.folder, address
        self._client = client(address)
        self._sent: dict[str, tuple[int, int]] = {}
        self._done: set[int] = set()
        self._seen: set[int] | None = set() if run.resume else None
        self._problem = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def close(self, *, wait: bool) -> None:
        """End the thread; with ``wait``, when all is copied or the store has been given up."""
        self._stopped.set()
        if wait:
            self._thread.join()
            if self._problem:
                say(f"{self._address}: not up to date: {self._problem}")

    def _loop(self) -> None:
        last = False
        while not last:
            # What was written before the end is looked at once more.
            last = self._stopped.wait(LOOK_S)
            try:
                self._look()
                self._problem = ""
            except SupersededError:
                return
            except (UserError, OSError) as error:
                if str(error) != self._problem:
                    say(f"mirror: {error}: training goes on, and this is tried again")
                self._problem = str(error)

    def _look(self) -> None:
        if self._seen is None:
            self._remove_old()
        elif not self._sent:
            refuse_other_run(self._run.config, self._address)
        self._copy_files()
        there = checkpoints(self._folder)
        if there and there[-1][0] not in self._done:
            self._copy(*there[-1])
        for step, folder in checkpoints(self._folder):
            if step not in self._done:
                self._copy(step, folder)
        self._remove_old()

    def _copy_files(self) -> None:
        for name in KEPT:
            path = self._folder / name
            if path.exists():
                stat = path.stat()
                state = (stat.st_mtime_ns, stat.st_size)
                if self._sent.get(name) != state:
                    self._run.fence.check()
                    self._client.put(self._address / name, path.read_bytes())
                    self._sent[name] = state
            elif self._sent.get(name) != GONE:
                # Of an earlier start, or of this one: the run goes on.
                self._client.delete([self._address / name])
                self._sent[name] = GONE

    def _copy(self, step: int, folder: Path) -> None:
        """Copy a checkpoint, which retention may remove meanwhile."""
        held = folder.with_name(f"mirror-{folder.name}{PARTIAL_SUFFIX}")
        shutil.rmtree(held, ignore_errors=True)
        try:
            held.mkdir()
            for path in folder.iterdir():
                os.link(path, held / path.name)
        except FileNotFoundError:  # removed before it was held
            shutil.rmtree(held, ignore_errors=True)
            return
        try:
            self._upload(step, held)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _upload(self, step: int, folder: Path) -> None:
        where = copy_of(self._address, step)
        manifest = None
        with suppress(UserError):  # what cannot be read is written anew
            manifest = read_manifest(where)
        digests = manifest and manifest.files.get(DIGESTS)
        if digests and digests.sha256 == sha256(folder / DIGESTS):
            self._done.add(step)  # by an earlier start
            return
        prefix = f"data-{uuid.uuid4().hex}"
        written = {}
        for path in sorted(folder.iterdir()):
            self._run.fence.check()
            pin = self._client.put(where / prefix / path.name, path)
            written[path.name] = ManifestFile(pin.size, pin.tag, sha256(path))
        self._run.fence.check()
        text = json.dumps(asdict(Manifest(prefix, written)), indent=2)
        self._client.put(where / MANIFEST, text.encode())
        self._done.add(step)
        found = self._client.list_below(where)
        old = [key for key in found if below(where.with_key(key), where).startswith("data-")]
        old = [key for key in old if not key.startswith(f"{(where / prefix).key}/")]
        self._client.delete([where.with_key(key) for key in old])

    def _remove_old(self) -> None:
        """Remove the copies of checkpoints that the run has removed, or has not made."""
        here = {step for step, _ in checkpoints(self._folder)}
        # Those of an older run go before there is any of this one.
        if here == self._seen or not (here <= self._done or self._seen is None):
            return
        for step in mirrored_steps(self._address):
            if step not in here:
                self._run.fence.check()
                _remove(self._address, step)
                self._done.discard(step)
        self._seen = here


def copy_of(address: Address, step: int) -> Address:
    """Where the copy of a step's checkpoint lies."""
    return address / "checkpoints" / checkpoint_folder(Path(), step).name


def _remove(address: Address, step: int) -> None:
    where = copy_of(address, step)
    client(where).delete([where / MANIFEST])
    client(where).delete([where.with_key(key) for key in client(where).list_below(where)])


def mirrored_steps(address: Address) -> list[int]:
    """The steps whose whole checkpoints a mirror has, oldest first."""
    folder = address / "checkpoints"
    names = (below(folder.with_key(key), folder) for key in client(folder).list_below(folder))
    steps = (name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}"))
    numbers = (step.removeprefix("step-") for step in steps)
    return sorted(int(number) for number in numbers if number.isdecimal())


def refuse_other_run(config: TrainConfig, mirror: Address) -> None:
    """Refuse the mirror of a run that was made with other options.

    Raises:
        UserError: names one, or the mirror cannot be read.
    """
    if not exists(mirror / CONFIG):
        return
    before = from_json(read_json(mirror / CONFIG, "the run's configuration"), str(mirror / CONFIG))
    if differing := differences(config, before, but=may_change_on_resume()):
        raise UserError(
            f"--mirror {mirror} holds another run: {differing[0]}, in brackets what that one was "
            "made with: name this run's own mirror, or a new one"
        )
