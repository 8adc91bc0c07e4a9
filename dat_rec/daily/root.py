"""The folder of a daily training: a folder for each day, the table, who writes, and how it began.

ROOT/daily.json         the options that it was begun with
ROOT/daily.parquet      a row for each day (table.py)
ROOT/daily.png          its picture
ROOT/DAY/before.json    the day that it goes on from
ROOT/DAY/score/         the new day as a test of the model before: a dataset
ROOT/DAY/metrics.json   what that model reached on it
ROOT/DAY/data/          the new day as training: a dataset
ROOT/DAY/run/           today's model
ROOT/DAY/export/        what serving needs of it
ROOT/DAY/delta/         with --deltas, what has changed of that since the day before
ROOT/DAY/seconds.json   seconds of each step
ROOT/DAY/log.txt        what the steps have printed
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dat_rec.daily.days import folder_of
from dat_rec.data.schema import SCHEMA
from dat_rec.errors import UserError
from dat_rec.files import read_json, write_json

BEGUN, LOCK, TABLE, PICTURE = "daily.json", ".lock", "daily.parquet", "daily.png"
WAIT_S, POLL_S = 3.0, 0.1
"""Seconds to wait for the lock of a process that was just killed."""


@dataclass(frozen=True)
class Day:
    """A day, and where its results go."""

    root: Path
    name: str
    """As the log's partition is called."""

    @property
    def folder(self) -> Path:
        """Of all that the day leaves."""
        return self.root / folder_of(self.name)

    @property
    def before(self) -> Path:
        """Name of the day that it goes on from."""
        return self.folder / "before.json"

    @property
    def score(self) -> Path:
        """Dataset of the day as a test."""
        return self.folder / "score"

    @property
    def data(self) -> Path:
        """Dataset of the day as training."""
        return self.folder / "data"

    @property
    def run(self) -> Path:
        """Run of the day's training."""
        return self.folder / "run"

    @property
    def export(self) -> Path:
        """Export of the run."""
        return self.folder / "export"

    @property
    def delta(self) -> Path:
        """What has changed since the export of the day before."""
        return self.folder / "delta"

    @property
    def metrics(self) -> Path:
        """Figures of the model before on the day."""
        return self.folder / "metrics.json"

    @property
    def log(self) -> Path:
        """What the steps have printed."""
        return self.folder / "log.txt"

    def seconds(self) -> dict[str, float]:
        """Seconds of each step, as far as they are known."""
        path = self.folder / "seconds.json"
        found: dict[str, float] = read_json(path, "the steps' seconds") if path.exists() else {}
        return found

    def took(self, step: str, seconds: float) -> None:
        """Keep what a step took."""
        write_json(self.folder / "seconds.json", self.seconds() | {step: round(seconds, 3)})

    def remove(self) -> None:
        """Remove all that the day has left."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the right to write in ``root``; processes that are forked meanwhile hold it too.

    Raises:
        UserError: another process has it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as file:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{root}: another `dat-rec daily` is at work here: wait for it or stop it, "
                        "or choose another --root"
                    ) from error
            time.sleep(POLL_S)
        yield


def check_begun(root: Path, options: dict[str, Any]) -> None:
    """Write down what ``root`` is begun with, or refuse other options than those.

    As long as no step is done, other options take the place of those.

    Args:
        root: the folder.
        options: JSON values by the name that the user knows.

    Raises:
        UserError: names the first option that differs; or ``root`` holds something else.
    """
    path = root / BEGUN
    others = sorted(one.name for one in root.iterdir() if one.name != LOCK)
    if others and not path.exists():
        raise UserError(
            f"{root}: holds {others[0]} and no {BEGUN}: choose an empty folder as --root"
        )
    if not any(root.glob(f"*/*/{SCHEMA}")):
        write_json(path, options)
        return
    before = read_json(path, "what the daily training was begun with")
    if not isinstance(before, dict):
        raise UserError(
            f"{path}: is not what a daily training was begun with: choose another --root"
        )
    for name in [*options, *(name for name in before if name not in options)]:
        now, then = options.get(name), before.get(name)
        if now != then:
            raise UserError(
                f"{root}: was begun with {_words(name, then)}, and this is {_words(name, now)}: "
                "give the same, or choose another --root"
            )


def _words(name: str, value: Any) -> str:
    if value is None:
        return f"no {name}"
    return f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}".strip()
