"""``--train-from`` and ``--test-until`` in; out: what becomes an example, and where the log ends.

Every day's training takes the examples of the last days alone, while all else is that of the whole
log: so the bound of the examples parts nothing but them. What lies before it is the past.
"""

from collections.abc import Callable
from functools import partial

import duckdb

from dat_rec.data.database import count_rows
from dat_rec.data.prepare.base import Base, words_of_base
from dat_rec.data.prepare.options import Options
from dat_rec.data.prepare.validation import moment_in_utc
from dat_rec.data.source import Bounds, Source
from dat_rec.errors import UserError


def given_bounds(options: Options) -> dict[str, str]:
    """The options that were given, by name."""
    named = {"--train-from": options.train_from, "--test-until": options.test_until}
    return {name: text for name, text in named.items() if text is not None}


def read_bounds(options: Options, moment: Callable[[str, str], int]) -> Bounds:
    """The moments that the options name.

    Args:
        options: of a source.
        moment: of an option's name and text, in the unit of ``time``.
    """
    found = {name: moment(name, text) for name, text in given_bounds(options).items()}
    return Bounds(found.get("--train-from"), found.get("--test-until"))


def bounds_of(database: duckdb.DuckDBPyConnection, source: Source, options: Options) -> Bounds:
    """The moments that the options of any source name.

    Raises:
        UserError: one is no moment, or the test is not the last of the whole log by time.
    """
    given = given_bounds(options)
    if given and (source.split.kind != "time" or source.split.group is not None):
        name, text = next(iter(given.items()))
        raise UserError(
            f"{name} {text}: needs a test that is the last of the log by time, and this one is not "
            f"({source.split.words}): leave it out"
        )
    if source.bounds is not None:
        return source.bounds
    return read_bounds(options, partial(moment_in_utc, database))


def cut_log(database: duckdb.DuckDBPyConnection, until: int, text: str) -> int:
    """Let ``raw_interactions`` end before ``until``; rows without a time stay, as bad ones.

    What is made of the interactions, such as the items of a log without a catalogue, ends with it.

    Args:
        database: holds the raw relations.
        until: in the unit of ``time``.
        text: of the option.

    Returns:
        The number of rows that are left out.

    Raises:
        UserError: none would stay.
    """
    later = f"coalesce(time >= {until}, false)"
    row = database.execute(
        f"SELECT count(*) FILTER ({later}), count(*) FROM raw_interactions"
    ).fetchone()
    assert row is not None
    if row[0] and row[0] == row[1]:
        raise UserError(f"--test-until {text}: no interaction is earlier: name a later time")
    database.execute(
        "ALTER VIEW raw_interactions RENAME TO whole_log; "
        f"CREATE VIEW raw_interactions AS FROM whole_log WHERE NOT {later}"
    )
    return int(row[0])


def words_of_bounds(
    database: duckdb.DuckDBPyConnection,
    bounds: Bounds,
    options: Options,
    later: int,
    base: Base | None = None,
) -> list[str]:
    """What the bounds part, in words, a text for each.

    Args:
        database: holds ``marked_interactions``.
        bounds: the moments.
        options: that name them.
        later: number of rows that ``cut_log`` has left out.
        base: the dataset that is gone on from; None: there is none.

    Raises:
        UserError: no example would be left.
    """
    words = []
    if base is not None:
        words.append(words_of_base(database, base))
    elif bounds.train_from is not None:
        training = "marked_interactions WHERE part = 'train'"
        past = count_rows(database, f"{training} AND time < {bounds.train_from}")
        rows = count_rows(database, training)
        if past == rows:
            raise UserError(
                f"--train-from {options.train_from}: no interaction from then on is left to train "
                "on: name a time before the test and the validation"
            )
        words.append(
            f"examples: from {options.train_from} on: {past} of {rows} training interactions are "
            "earlier, and make histories alone"
        )
    if bounds.test_until is not None:
        words.append(
            f"the log ends before {options.test_until}: {later} later interactions are left out"
        )
    return words
