"""What a ``ParquetLog`` says of its split in, the rules of what is held out, out."""

from functools import partial
from typing import TYPE_CHECKING

import duckdb

from dat_rec.data.prepare.bounds import given_bounds, read_bounds
from dat_rec.data.prepare.validation import words_of_start
from dat_rec.data.source import (
    Bounds,
    Split,
    Validation,
    last_of_each_user,
    last_share_of_time,
    random_share,
    share_of_each_group,
)
from dat_rec.data.sources.split_columns import GROUP, PART
from dat_rec.data.sources.times import Times, read_moment
from dat_rec.errors import UserError

if TYPE_CHECKING:
    from dat_rec.data.sources.parquet_log import ParquetLog

TIME = "time"
TEST_SHARE = 0.1
MINIMUM = 2
"""Minimum number of interactions of a user, or group, of which some are held out."""


def check_split(options: "ParquetLog") -> None:
    """Refuse options that contradict one another.

    Raises:
        UserError: names them, and the cure.
    """
    split, column = options.split, options.split_column
    others = {
        "--split": split != "time",
        "--test-share": options.test_share != TEST_SHARE,
        "--test-from": options.test_from is not None,
        "--validation-from": options.validation_from is not None,
        "--split-group": options.split_group is not None,
    }
    given = [option for option, is_given in others.items() if is_given]
    if column is not None and given:
        raise UserError(f"--split-column {column} and {given[0]}: both choose the test: pass one")
    bounds = given_bounds(options)
    if column is not None and bounds:
        raise UserError(
            f"--split-column {column} and {next(iter(bounds))}: the column says what trains and "
            "what tests: leave one out"
        )
    if split != "time" and options.test_from is not None:
        raise UserError(f"--test-from needs --split time: it is {split}: leave one out")
    held_out = {"last": "one interaction of each user", "none": "nothing", "all": "all"}.get(split)
    if held_out is not None and options.test_share != TEST_SHARE:
        raise UserError(
            f"--test-share has no meaning for --split {split}, which holds out {held_out}: "
            "leave one out"
        )
    if options.split_group is not None and (held_out or options.test_from is not None):
        other = f"--split {split}" if held_out else "--test-from"
        raise UserError(
            f"--split-group {options.split_group} has no meaning for {other}: leave one out"
        )
    ordering = {
        f"--split {split}": split != "random" and column is None,
        "--time": options.time != TIME,
        "--time-format": options.time_format is not None,
        "--sequence": options.sequence is not None,
        "--test-from": options.test_from is not None,
        "--validation-from": options.validation_from is not None,
        **dict.fromkeys(bounds, True),
    }
    if options.unordered and any(ordering.values()):
        first = next(option for option, is_given in ordering.items() if is_given)
        raise UserError(
            f"--unordered and {first}, which needs times: pass --split random or --split-column, "
            "or leave --unordered out"
        )
    minimum = options.split_minimum
    if minimum is not None:
        if split != "last" and options.split_group is None:
            raise UserError("--split-minimum needs --split last or --split-group: pass one")
        if minimum < MINIMUM:
            raise UserError(
                f"--split-minimum {minimum}: must be at least {MINIMUM}, of which one is trained on"
            )


def split_of(
    options: "ParquetLog", database: duckdb.DuckDBPyConnection, times: Times | None
) -> Split:
    """The rule of the test.

    Raises:
        UserError: a share, or a moment, is none.
    """
    minimum = MINIMUM if options.split_minimum is None else options.split_minimum
    ordered = options.sequence is not None
    if options.split_column is not None:
        return Split(
            f"{PART} = 'test'",
            f"test: where {options.split_column} says so",
            if_none="no good row says so: correct the column",
            if_all="every good row says so: correct the column",
            kind="random" if times is None else "time",
            parts_equals=times is not None or options.unordered,
        )
    if options.split == "none":
        return Split("false", "test: nothing is held out", may_be_empty=True)
    if options.split == "all":
        cure = "pass --after, the dataset before, or another --split"
        return Split("true", "test: all that is new", if_all=cure)
    if options.split == "last":
        order = "place" if not ordered else "sequence DESC, item_id"
        cure = "pass --split time or --split random"
        return last_of_each_user(order, cure, sequence=ordered, minimum=minimum)
    if options.split_group is not None:
        ids = {options.user_id: "user_id", options.item_id: "item_id"}
        return share_of_each_group(
            options.split,
            options.test_share,
            ids.get(options.split_group, GROUP),
            options.split_group,
            seed=options.seed,
            sequence=ordered,
            minimum=minimum,
        )
    if options.split == "random":
        return random_share(options.test_share, options.seed)
    if options.test_from is None or times is None:
        return last_share_of_time(options.test_share, "pass --split last or --split random")
    start = _start(database, times, "--test-from", options.test_from)
    return Split(f"time >= {start}", f"test: from {options.test_from} on")


def validation_of(
    options: "ParquetLog",
    database: duckdb.DuckDBPyConnection,
    times: Times | None,
    *,
    said: bool,
) -> Validation | None:
    """The rule of the validation; None: the options that all sources have decide.

    Args:
        options: of the log.
        database: holds it.
        times: how its times are read; None: it has none.
        said: whether the split's column says validation of any row.

    Raises:
        UserError: a moment is none, or both the column and an option choose.
    """
    if said:
        if options.validation_share is not None:
            raise UserError(
                f"--validation-share: --split-column {options.split_column} says validation of "
                "some rows: leave it out"
            )
        words = f"validation: where {options.split_column} says so"
        return Validation(f"{PART} = 'validation'", words)
    if options.validation_from is None:
        return None
    if times is None:
        raise UserError(
            f"--validation-from {options.validation_from}: the log has no times: pass "
            "--validation-share, or name their column by --time"
        )
    start = _start(database, times, "--validation-from", options.validation_from)
    return Validation(f"time >= {start}", words_of_start(options.validation_from))


def bounds_of(
    options: "ParquetLog", database: duckdb.DuckDBPyConnection, times: Times | None
) -> Bounds | None:
    """The moments of ``--train-from`` and ``--test-until``; None: the log has no times.

    Raises:
        UserError: one is no moment.
    """
    if times is None:
        return None
    return read_bounds(options, partial(_start, database, times))


def _start(database: duckdb.DuckDBPyConnection, times: Times, option: str, text: str) -> int:
    """The moment that an option names, in the form of the log's times."""
    start = read_moment(database, times, text)
    if start is None:
        kind = "integer" if times.integers else "timestamp"
        raise UserError(f"{option} {text}: is no {kind}, as the times are: write one")
    return start
