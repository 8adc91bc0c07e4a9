"""MovieLens as downloaded from GroupLens: ml-1m (``::`` between fields), ml-25m or ml-32m (CSV).

A positive is a rating of at least ``min_rating``; a film's category is its first genre.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from dat_rec.data.prepare import Options
from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import Attribute, Source, last_share_of_time, quoted
from dat_rec.data.sources.tables import (
    PLACE,
    at_least,
    delimited,
    finite,
    integer,
    microseconds,
    number,
    problem,
)
from dat_rec.errors import UserError

RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
TEST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MovieLens(Options):
    """MovieLens (ml-1m, ml-25m, ml-32m): the test is the last 10 % of the positives by time."""

    path: Path
    """The unpacked folder, with ratings.dat or ratings.csv."""
    min_rating: float = 4.0
    """Ratings of at least this are positives; the others are left out."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """See Options."""
        finite("--min-rating", self.min_rating)
        attributes = [Attribute("category", "item"), Attribute("genres", "item", "tags")]
        attributes += [Attribute("year", "item")]
        if (self.path / "ratings.dat").exists():
            ratings = delimited(
                self.path / "ratings.dat",
                RATING_COLUMNS,
                separator="::",
                header=RATING_COLUMNS,
            )
            movies = _latin1(self.path / "movies.dat", work, ("movieId", "title", "genres"))
            _register_people(database, self.path / "users.dat", work)
            attributes += [Attribute(name, "query") for name in ("gender", "age", "occupation")]
        elif (self.path / "ratings.csv").exists():
            ratings = delimited(self.path / "ratings.csv", RATING_COLUMNS)
            movies = delimited(self.path / "movies.csv", ("movieId", "title", "genres"))
            database.execute(
                f"CREATE VIEW raw_users AS SELECT {integer('userId')} AS user_id, {PLACE} "
                f"FROM {ratings} WHERE false"
            )
        else:
            raise UserError(
                f"{self.path}: holds neither ratings.dat nor ratings.csv: "
                "name the unpacked folder of ml-1m, ml-25m or ml-32m"
            )
        # A rating that is no number stays, so that the checks can count it.
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT {integer('userId')} AS user_id, "
            f"{integer('movieId')} AS item_id, "
            f"{microseconds(integer('timestamp'), 1_000_000)} AS time, {PLACE}, "
            f"{problem('userId', 'movieId', time='timestamp', numbers=('rating',))} FROM {ratings} "
            f"WHERE {at_least(number('rating'), self.min_rating)}"
        )
        _register_movies(database, movies)
        return Source(
            name="movielens",
            category="category",
            attributes=tuple(attributes),
            split=last_share_of_time(TEST_SHARE),
            notes=(f"positives: ratings of at least {self.min_rating:g}; the others are left out",),
        )


def _register_movies(database: duckdb.DuckDBPyConnection, movies: str) -> None:
    genres = "CASE WHEN genres NOT LIKE '(no genres%' THEN string_split(genres, '|') END"
    database.execute(
        f"CREATE VIEW raw_items AS SELECT {integer('movieId')} AS item_id, title, "
        f"{genres} AS genres, ({genres})[1] AS category, "
        "nullif(regexp_extract(title, '\\((\\d{4})\\)\\s*$', 1), '') AS year, "
        f"{PLACE} FROM {movies}"
    )


def _register_people(database: duckdb.DuckDBPyConnection, path: Path, work: Path) -> None:
    people = _latin1(path, work, ("userId", "gender", "age", "occupation", "zip"))
    database.execute(
        f"CREATE VIEW raw_users AS SELECT {integer('userId')} AS user_id, gender, age, "
        f"occupation, {PLACE} FROM {people}"
    )


def _latin1(path: Path, work: Path, header: tuple[str, ...]) -> str:
    """SQL to stand after FROM: a small ``::`` file in Latin-1, which DuckDB cannot read itself."""
    try:
        text = path.read_bytes().decode("latin-1")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name the whole unpacked folder") from error
    # Not splitlines: to it, bytes that stand in titles, such as 0x85, end a line too.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    rows = [line.removesuffix("\r").split("::") for line in lines]
    columns = {
        name: pa.array([row[place] if place < len(row) else None for row in rows], pa.string())
        for place, name in enumerate(header)
    }
    columns["_source_row"] = pa.array(range(1, len(rows) + 1), pa.int64())
    table = work / f"{path.stem}.parquet"
    pq.write_table(pa.table(columns), table)
    return f"(SELECT *, {quoted(path)} AS _source_file FROM {scan_parquet([table])})"
