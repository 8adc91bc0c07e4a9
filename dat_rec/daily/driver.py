"""Walk the days of a log: score yesterday's model on a day, prepare, train, export; then the next.

Each step is a command, in a process of its own (child.py), and leaves a whole result or none. So
whenever the driver is killed, the next one passes over what is done, and comes to the same bits.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Imported once, so that the process of each step, which is forked from this one, has it all.
import dat_rec.data.prepare.pipeline
import dat_rec.retrieval.evaluate
import dat_rec.retrieval.export
import dat_rec.training.train  # noqa: F401
from dat_rec.daily import picture
from dat_rec.daily.child import in_child, stop_at_once
from dat_rec.daily.days import folder_of
from dat_rec.daily.root import PICTURE, TABLE, Day, check_begun, locked
from dat_rec.daily.steps import SCORE, TRAIN, Asked, Step, steps_of
from dat_rec.daily.table import (
    ANEW,
    Row,
    empty_row,
    line_of,
    read_rows,
    row_of,
    waiting_row,
    waits,
    write_rows,
)
from dat_rec.data.schema import SCHEMA
from dat_rec.errors import NoRowsError, UserError
from dat_rec.files import read_json, write_json
from dat_rec.retrieval.exported import MANIFEST
from dat_rec.runs.failure_record import SUMMARY

Commands = Mapping[str, Callable[[Sequence[str]], Any]]
"""The commands' ``run``, by name."""


def walk(
    root: Path,
    days: Sequence[str],
    asked: Asked,
    commands: Commands,
    *,
    begun: dict[str, Any],
    keep: int = 0,
) -> None:
    """Walk the days, and print a line for each.

    Args:
        root: folder of the results.
        days: as the log's partitions are called, in order.
        asked: options of every day.
        commands: what the steps call.
        begun: what ``root`` must have been begun with, by name.
        keep: number of days with rows whose folders stay; 0: all.

    Raises:
        UserError: another process walks here, ``root`` was begun with other options, or a step
            refuses its input: the message names the day and the step.
        StoppedError: SIGTERM came.
        RankError: a step was killed.
    """
    before_term = signal.signal(signal.SIGTERM, stop_at_once)
    try:
        with locked(root):
            check_begun(root, begun)
            Walk(root, asked, commands, keep).over(days)
    finally:
        signal.signal(signal.SIGTERM, before_term)


class Walk:
    """The walk of one process.

    Args:
        root: folder of the results.
        asked: options of every day.
        commands: what the steps call.
        keep: number of days whose folders stay; 0: all.
    """

    def __init__(self, root: Path, asked: Asked, commands: Commands, keep: int) -> None:
        self._root = root
        self._asked = asked
        self._commands = commands
        self._keep = keep
        self._log = root / "log.txt"
        self._rows: list[Row] = self._apart(partial(read_rows, root / TABLE), "the table")
        # A last day without rows may have got some meanwhile.
        while self._rows and not self._rows[-1]["examples"]:
            self._rows.pop()

    def over(self, days: Sequence[str]) -> None:
        """Walk the days that are not done."""
        self._forget()
        if self._rows and not (self._root / PICTURE).exists():
            self._publish()
        done = {row["day"] for row in self._rows}
        for name in days:
            if name not in done:
                day, before = Day(self._root, name), self._before()
                row = self._day(day, before)
                self._rows.append(row)
                self._publish()
                print(line_of(row, before), flush=True)
                self._forget()

    def _before(self) -> Day | None:
        """The last day that was trained on."""
        trained = [row["day"] for row in self._rows if row["examples"]]
        return Day(self._root, trained[-1]) if trained else None

    def _day(self, day: Day, before: Day | None) -> Row:
        """Do the steps of a day that are not done; return its row."""
        if before is not None:
            self._check_whole(before, day)
        self._begin(day, before)
        for step in steps_of(day, before, self._asked, self._first(day)):
            if step.done:
                continue
            trained = [row for row in self._rows if row["examples"]]
            if step.name == TRAIN and trained and not _examples(day):
                day.remove()
                return waiting_row(day, trained[-1])
            begin = time.perf_counter()
            try:
                self._step(day, step)
            except NoRowsError:
                if step.name != SCORE:
                    raise
                day.remove()
                return empty_row(day)
            day.took(step.name, time.perf_counter() - begin)
        row: Row = self._apart(partial(row_of, day, before), f"{day.name}: the row")
        return row

    def _first(self, day: Day) -> str:
        """The first day to read: those since the last training whose interactions wait come too."""
        waiting: list[str] = []
        for row in self._rows:
            waiting = [] if row["examples"] else [*waiting, *([row["day"]] if waits(row) else [])]
        return [*waiting, day.name][0]

    def _check_whole(self, before: Day, day: Day) -> None:
        """Refuse to go on from a day that is done and whose dataset or run was removed since."""
        for folder, whole in ((before.data, SCHEMA), (before.run, SUMMARY)):
            if not (folder / whole).exists():
                table = self._root / TABLE
                raise UserError(
                    f"{folder}: is missing, and {day.name} goes on from it; {table} says that "
                    f"{before.name} is done: {ANEW}"
                )
        if self._asked.deltas and not (before.export / MANIFEST).exists():
            print(
                f"{before.export}: is missing: {day.name}'s export is written in full, and begins "
                "a new chain of deltas",
                file=sys.stderr,
            )

    def _begin(self, day: Day, before: Day | None) -> None:
        """Make the day's folder, anew if it was begun behind another day: one that came late."""
        name = None if before is None else before.name
        if day.before.exists() and read_json(day.before, "the day before") != name:
            day.remove()
        day.folder.mkdir(exist_ok=True)
        write_json(day.before, name)

    def _step(self, day: Day, step: Step) -> None:
        with day.log.open("a", encoding="utf-8") as log:
            print(f"$ dat-rec {shlex.join(step.words)}", file=log)
        name, *words = step.words
        what = f"{day.name}: {step.name}"
        try:
            in_child(partial(self._commands[name], words), day.log, what)
        except UserError as error:
            error.args = (f"{what}: {error}",)
            raise
        if step.leaves is not None:
            write_json(step.whole, read_json(step.leaves, "the figures"))

    def _publish(self) -> None:
        """Write table and picture."""
        rows, root = self._rows, self._root

        def write() -> None:
            # The table comes last: a day that it has is not walked again.
            if any(row.get("all/queries") for row in rows):
                picture.draw(rows, root / PICTURE)
            write_rows(root / TABLE, rows)

        self._apart(write, "the table")

    def _forget(self) -> None:
        """Remove the folders of days that are no longer to be kept."""
        trained = [row["day"] for row in self._rows if row["examples"]]
        for name in trained[: -self._keep] if self._keep else []:
            if (old := Day(self._root, name)).folder.exists():
                print(f"{folder_of(name)}: removed (--keep {self._keep})", file=sys.stderr)
                old.remove()

    def _apart(self, work: Callable[[], Any], what: str) -> Any:
        """Do what reads tables in a process of its own: this one starts no threads, and forks."""
        return in_child(work, self._log, what)


def _examples(day: Day) -> int:
    """The number of examples of the day's dataset: none, where all of it waits."""
    examples: int = read_json(day.data / SCHEMA, "the dataset")["examples"]
    return examples
