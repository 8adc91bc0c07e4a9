"""Timestamps in, those that a cast has spoilt or would spoil found: refused, or told by SQL.

Nanoseconds would be cut to microseconds. Seconds or milliseconds since 1970 that a writer cast to
a timestamp of microseconds lie in January and February 1970.
"""

from dat_rec.data.source import named
from dat_rec.data.sources.tables import Relation
from dat_rec.errors import UserError

SECONDS = (946_684_800, 4_102_444_800)
"""2000 to 2100 in seconds since 1970: as microseconds, the first hours of 1970."""
MILLISECONDS = (SECONDS[0] * 1000, SECONDS[1] * 1000)


def spoilt_times(table: Relation, column: str, sequence: str | None) -> str:
    """SQL: whether a row's time is seconds or milliseconds that were read as microseconds.

    Args:
        table: holds the column.
        column: the times'.
        sequence: the column that orders equal times, if there is one.

    Raises:
        UserError: a time is finer than a microsecond, and no sequence keeps the order; or all times
            are read in a wrong unit.
    """
    type_, time = table.types[column], named(column)
    if not type_.startswith("TIMESTAMP"):
        return "false"
    if type_.endswith("_NS") and sequence is None:
        fine = table.first(f"epoch_ns({time}) % 1000 <> 0", f"{time}::VARCHAR")
        if fine is not None:
            raise UserError(
                f"{fine[0]}: {column} {fine[1]} is finer than a microsecond, and would be cut: "
                f"write it in microseconds, or keep the order by --sequence {column}"
            )
    micros = f"epoch_us({time if type_ != 'TIMESTAMPTZ_NS' else f'{time}::TIMESTAMPTZ'})"
    wrong = " OR ".join(
        f"{micros} BETWEEN {low} AND {high - 1}" for low, high in (SECONDS, MILLISECONDS)
    )
    early = f"{micros} < {SECONDS[0] * 1_000_000}"
    counts = table.database.execute(
        f"SELECT count({time}), count(*) FILTER ({wrong}), count(*) FILTER ({early}) FROM {table}"
    ).fetchone()
    # Times that begin at 1970, as some logs count them, have others around.
    if counts is None or counts[1] == 0 or counts[1] < counts[2]:
        return "false"
    first = table.first(wrong, f"{time}::VARCHAR")
    if counts[0] == counts[1] and first is not None:
        raise UserError(
            f"{first[0]}: {column} {first[1]} lies in 1970, as all times do: seconds or "
            "milliseconds that were cast to microseconds: write them as timestamps in their own "
            "unit, or as integers"
        )
    return f"coalesce({wrong}, false)"
