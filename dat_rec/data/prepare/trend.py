"""Marked interactions in, out how often each item was had lately: ``recent_count``.

    recent_count(v) = Σ over the training interactions of v of 2^(−age / h)

The age is the time to the end of training, h the half-life. It is the one of ``SHARES`` under which
the popularity of the log's first nine tenths (``dat_rec.data.trend``) foretells the items of the
last tenth best, by the mean of their log-likelihoods; a day at least, so that the hours of the day
are no trend. Where none gains ``LEAST_GAIN`` over plain counts, and ``LEAST_ERRORS`` times the
standard error of that, what is popular does not change, and there is no such column.

A dataset that follows another one (``--after``) keeps its half-life, and adds to what is left of
its counts; where that one has none, so has this one.

Weights are whole numbers of 2^−20, so that sums do not depend on their order, nor on threads.
"""

import duckdb
import numpy as np
from numpy.typing import NDArray

from dat_rec.data.prepare.base import ITEMS
from dat_rec.data.schema import RECENT
from dat_rec.data.trend import Trend, trending

Floats = NDArray[np.float64]

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)
"""Half-lives that are tried, as shares of the time that the first nine tenths take."""
LEAST_GAIN = 0.01
"""Minimum gain in log-likelihood, in nats an interaction."""
LEAST_ERRORS = 4
"""Minimum gain, in standard errors: the best of several is found by chance, too."""
UNIT = 1 << 20
"""One, as a whole number."""
ROWS = "marked_interactions WHERE part = 'train'"
TRAINING = "marked_interactions JOIN item_order USING (item_id) WHERE part = 'train'"


def add_recent(database: duckdb.DuckDBPyConnection, day: int) -> Trend | None:
    """Add ``recent_count`` to ``item_rows``, if popularity changes.

    Args:
        database: holds ``marked_interactions``, ``item_order`` and ``item_rows``.
        day: how much time a day is, in the unit of ``time``.
    """
    # A few wrong times, early or late, are not the log's begin or end.
    row = database.execute(f"SELECT quantile_disc(time, [0.01, 0.9, 0.999]) FROM {ROWS}").fetchone()
    assert row is not None  # an aggregate has a row
    begin, cut, until = (int(time) for time in row[0])
    half_life = _half_life(database, begin, cut, day)
    if half_life is None:
        return None
    trend = Trend(half_life, until)
    _add_column(database, f"SELECT item_index, {weight(trend)} FROM {TRAINING} GROUP BY item_index")
    return trend


def carry_recent(database: duckdb.DuckDBPyConnection, before: Trend) -> Trend:
    """Add ``recent_count`` to ``item_rows``, from that of the dataset before and what followed.

    Args:
        database: holds, besides what ``add_recent`` needs, the dataset's ``base_items``.
        before: the dataset's.
    """
    row = database.execute(f"SELECT quantile_disc(time, 0.999) FROM {ROWS}").fetchone()
    assert row is not None
    until = max(before.until, before.until if row[0] is None else int(row[0]))
    trend = Trend(before.half_life, until)
    left = 0.5 ** ((until - before.until) / before.half_life)
    _add_column(
        database,
        f"SELECT item_index, coalesce(base.{RECENT}, 0) * {left!r} + coalesce(found.weight, 0) "
        f"FROM item_order LEFT JOIN {ITEMS} base USING (item_id) LEFT JOIN (SELECT item_index, "
        f"{weight(trend)} AS weight FROM {TRAINING} GROUP BY item_index) found "
        "USING (item_index) WHERE item_order.train_count > 0",
    )
    return trend


def _add_column(database: duckdb.DuckDBPyConnection, counts: str) -> None:
    """Add the column of ``counts``, SQL of pairs of item_index and number; others have 0."""
    database.execute(
        f"ALTER TABLE item_rows ADD COLUMN {RECENT} DOUBLE DEFAULT 0; "
        f"UPDATE item_rows SET {RECENT} = found.weight FROM ({counts}) found (place, weight) "
        "WHERE item_index = found.place"
    )


def _half_life(database: duckdb.DuckDBPyConnection, begin: int, cut: int, day: int) -> int | None:
    """The half-life that foretells the interactions from ``cut`` on best; None: none does."""
    lives = [life for share in SHARES if (life := int(share * (cut - begin))) >= day]
    weights = "".join(
        f", {weight(Trend(life, cut), f'time < {cut}')} AS weight_{number}"
        for number, life in enumerate(lives)
    )
    found = database.execute(
        f"SELECT count(*) FILTER (time < {cut}) AS early, count(*) FILTER (time >= {cut}) AS late"
        f"{weights} FROM {TRAINING} GROUP BY item_index ORDER BY item_index"
    ).fetchnumpy()
    early, late = found["early"].astype(np.float64), found["late"].astype(np.float64)
    if not lives or not early.any():
        return None
    plain = _logs(early)
    best, best_gain = None, 0.0
    for number, life in enumerate(lives):
        gains = _logs(trending(early, found[f"weight_{number}"])) - plain
        gain = float((late * gains).sum() / late.sum())
        error = float(np.sqrt((late * (gains - gain) ** 2).sum())) / late.sum()
        if gain >= max(LEAST_GAIN, LEAST_ERRORS * error) and gain > best_gain:
            best, best_gain = life, gain
    return best


def weight(trend: Trend, among: str = "true") -> str:
    """SQL: the sum of the weights of a group's interactions."""
    age = f"greatest(0, {trend.until} - time)::DOUBLE"
    one = f"round(pow(2.0, -{age} / {trend.half_life}) * {UNIT})::BIGINT"
    return f"coalesce(sum({one}) FILTER ({among}), 0)::DOUBLE / {UNIT}"


def _logs(counts: Floats) -> Floats:
    """(items,) logarithms of their shares."""
    result: Floats = np.log((counts + 0.5) / (counts + 0.5).sum())
    return result
