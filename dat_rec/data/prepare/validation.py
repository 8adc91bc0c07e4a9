"""The options of validation and a split in, the rule of what is held out for validation out.

The interactions fall into three spans: training, validation, test. What is held out for validation
is chosen among those that the split leaves, in the way in which the split chose the test.
"""

import duckdb

from dat_rec.data.prepare.options import Options
from dat_rec.data.source import Source, Split, Validation, check_share, cut, quoted, random_number
from dat_rec.errors import UserError

LARGEST_HASH = 2**64


def check_validation(options: Options) -> None:
    """Refuse options of validation that contradict one another.

    Raises:
        UserError: names them, and the cure.
    """
    if options.validation_share is not None and options.validation_from is not None:
        raise UserError(
            "--validation-share and --validation-from: both choose the validation: pass one"
        )


def validation_of(
    database: duckdb.DuckDBPyConnection, source: Source, options: Options
) -> Validation | None:
    """What is held out for validation; None: nothing.

    Raises:
        UserError: an option is no share, or no moment.
    """
    if source.validation is not None:
        return source.validation
    if options.validation_from is not None:
        start = moment_in_utc(database, "--validation-from", options.validation_from)
        return Validation(f"time >= {start}", words_of_start(options.validation_from))
    if options.validation_share is None:
        return None
    return share_of_training(source.split, options.validation_share, options.seed)


def words_of_start(start: str) -> str:
    """The rule of ``--validation-from`` in words."""
    return f"validation: from {start} on, the test left out"


def share_of_training(split: Split, share: float, seed: int) -> Validation:
    """Hold out a share of what the split leaves, chosen as the split chose the test.

    By time: the last share, equal times together. At random: a random share, equal ones together.
    Of a split of each user's last: the last that is left, of a random share of the users. Of one
    by groups: a share of each.

    Raises:
        UserError: the share is not between 0 and 1.
    """
    percent = f"{share * 100:g} %"
    if split.kind == "last":
        if not 0 < share <= 1:
            raise UserError(
                f"--validation-share {share}: is a share of the users here: it must lie above 0, "
                "and at most at 1"
            )
        number = f"md5_number_lower(concat_ws('|', {seed}, user_id))"
        chosen = f"{number} < {round(share * LARGEST_HASH)}::HUGEINT"
        whose = "each user" if share == 1 else f"a random {percent} of users (seed {seed})"
        words = f"validation: the last other interaction of {whose}, where two or more are left"
        return Validation(f"({split.is_test}) AND {chosen}", words)
    check_share("--validation-share", share)
    if split.group is not None:
        how = "the last" if split.kind == "time" else "a random"
        words = f"validation: {how} {percent} of the others of each {split.group}"
        return Validation(split.group_rule.format(share=share), words, share)
    if split.kind == "random":
        number = random_number(seed)
        words = f"validation: a random {percent} of the others (seed {seed})"
        return Validation(f"{number} >= {cut(number, share, 'training')}", words, share)
    words = f"validation: the last {percent} of the others by time"
    return Validation(f"time >= {cut('time', share, 'training')}", words, share)


def moment_in_utc(database: duckdb.DuckDBPyConnection, option: str, text: str) -> int:
    """The moment that an option names, in microseconds since 1970.

    Raises:
        UserError: it is no timestamp.
    """
    found = database.execute(
        f"SELECT epoch_us(try_cast(trim({quoted(text)}) AS TIMESTAMPTZ))"
    ).fetchone()
    if found is None or found[0] is None:
        raise UserError(
            f"{option} {text}: is no timestamp: write one like 2026-01-31 or '2026-01-31 12:00:00'"
        )
    return int(found[0])
