"""The options that every source of ``dat-rec prepare`` has, and what it must implement."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb

from dat_rec.data.source import Source


@dataclass(frozen=True, kw_only=True)
class Options(ABC):
    """The options that every source has; a source adds its own fields."""

    out: Path
    """Folder of the dataset, which is made, or its address, as in s3://bucket/data."""
    history_length: int = 50
    """Maximum length of a history: the user's most recent items."""
    audience_length: int = 50
    """Where the log has no order: maximum number of an item's audience, users who had it, which the
    item tower reads as the query tower reads the history. 0: there is none."""
    trend: bool = True
    """Count how often items were had lately, where that foretells the end of training better than
    plain counts do; scores go by it."""
    max_rejected: float = 0.01
    """Maximum share of bad rows in the interactions, users or items; above it the command stops."""
    seed: int = 0
    """Random seed of the examples' order, and of what a random split holds out."""
    validation_share: float | None = None
    """Share to hold out for validation, of what is not tested, and chosen as the test is: the last
    by time, or a random share; beside a test of each user's last interaction, the last other one of
    this share of the users. Without this and --validation-from, nothing is."""
    validation_from: str | None = None
    """Start of the validation, in place of --validation-share: a timestamp in UTC. What is not
    tested is held out for validation from then on."""
    train_from: str | None = None
    """Start of the training examples, where the test is the last by time: a timestamp in UTC, or an
    integer if the log's times are. Training interactions before it are no examples; for all else
    they count: histories, what a user has seen, vocabularies, training counts."""
    test_until: str | None = None
    """End of the log, where the test is the last by time: a timestamp in UTC, or an integer if the
    log's times are. Interactions from then on are left out, as if they were not there."""
    after: Path | None = None
    """Dataset, or its address, to go on from: the source is asked for the new interactions alone,
    and all earlier ones are taken from there. What that dataset holds out becomes examples, and so
    does what is new and not held out here."""
    forget_after: float | None = None
    """With --after: days without a training interaction after which a user or item is forgotten,
    counted back from the last one of all; of integer times, units of them. It loses its embedding
    row, and what follows is as if it had never been in the log."""
    capacity: int | None = None
    """With --after: maximum number of trained users, and of trained items. Of more, those are
    forgotten whose last training interaction is oldest, of equal ones those with the fewest."""
    admit_after: int | None = None
    """Least number of training interactions, of all days, with which a user or item gets an
    embedding row. With fewer it is as one that was never trained on, and its interactions wait
    for the day on which it has so many. By default that of --after, or 1: all get one."""
    overwrite: bool = False
    """Replace the dataset in OUT, if there is one."""
    memory_limit: str = "15%"
    """Maximum memory of DuckDB, e.g. 4GB, or a share of the machine's (or container's) memory;
    what does not fit is spilled to the disk, beside OUT."""
    threads: int | None = None
    """Number of threads; by default all cores of the machine or container. The result is the same
    with any."""

    @abstractmethod
    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """Register the raw relations (see source.py); files may be put into ``work``.

        Raises:
            UserError: an input is missing or malformed.
        """

    def inputs(self) -> tuple[Path, ...]:
        """The input files and folders."""
        names = (field.name for field in fields(self) if field.name not in ("out", "after"))
        values = (getattr(self, name) for name in names)
        return tuple(value for value in values if isinstance(value, Path))

    def versions(self) -> tuple[str, ...]:
        """The versions of what is read from elsewhere than ``inputs``.

        Raises:
            UserError: it cannot be asked.
        """
        return ()
