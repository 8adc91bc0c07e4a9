"""MovieLens as downloaded from GroupLens: ``::`` between fields (ml-1m, ml-10m), or CSV (newer).

CSV files that another tool has saved are read too: with a byte-order mark, an index column, quotes,
times in ISO 8601, titles in Latin-1. A positive is a rating of at least ``min_rating``; a film's
category is its first genre.
"""

import csv
from dataclasses import dataclass
from itertools import islice
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
from dat_rec.data.sources.time_forms import EPOCH, FORMS
from dat_rec.data.sources.times import form_of
from dat_rec.errors import UserError

RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
FILM_COLUMNS = ("movieId", "title", "genres")
TEST_SHARE = 0.1
LOOK_AT = 1_000
"""Number of lines that decide the form of a CSV file's times."""


@dataclass(frozen=True, kw_only=True)
class MovieLens(Options):
    """Make a dataset of MovieLens (ml-1m, ml-25m, …): the test is the last 10 % by time."""

    path: Path
    """Folder that was unpacked, with ratings.dat or ratings.csv."""
    min_rating: float = 4.0
    """Minimum rating of a positive; lower ratings are left out."""

    def register(self, database: duckdb.DuckDBPyConnection, work: Path) -> Source:
        """See Options."""
        finite("--min-rating", self.min_rating)
        attributes = [Attribute("category", "item"), Attribute("genres", "item", "tags")]
        attributes += [Attribute("year", "item")]
        notes = [f"positives: ratings of at least {self.min_rating:g}; the others are left out"]
        time, integer_time = microseconds(integer("timestamp"), 1_000_000), True
        if (self.path / "ratings.dat").exists():
            ratings = delimited(
                self.path / "ratings.dat",
                RATING_COLUMNS,
                separator="::",
                header=RATING_COLUMNS,
            )
            movies = _double_colons(self.path / "movies.dat", work, FILM_COLUMNS)
            people = _people(self.path)
        elif (self.path / "ratings.csv").exists():
            _check_header(self.path / "ratings.csv", RATING_COLUMNS)
            ratings = delimited(self.path / "ratings.csv", RATING_COLUMNS)
            form = _form_of_times(database, self.path / "ratings.csv")
            if form not in EPOCH:
                time, integer_time = FORMS[form].micros('trim("timestamp")'), False
            _check_header(self.path / "movies.csv", FILM_COLUMNS)
            path = _in_utf8(self.path / "movies.csv", work)
            if path.parent == work:
                notes.append("movies.csv is not in UTF-8: it is read as Latin-1")
            movies = (
                f"(SELECT * REPLACE ({quoted(self.path / 'movies.csv')} AS _source_file) "
                f"FROM {delimited(path, FILM_COLUMNS)})"
            )
            people = None
        else:
            raise UserError(_other_folder(self.path))
        if people is None:
            database.execute(
                f"CREATE VIEW raw_users AS SELECT {integer('userId')} AS user_id, {PLACE} "
                f"FROM {ratings} WHERE false"
            )
        else:
            _register_people(database, people, work)
            attributes += [Attribute(name, "query") for name in ("gender", "age", "occupation")]
        wrong = problem(
            "userId", "movieId", time="timestamp", integer_time=integer_time, numbers=("rating",)
        )
        # A rating that is no number stays, so that the checks can count it.
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT {integer('userId')} AS user_id, "
            f"{integer('movieId')} AS item_id, {time} AS time, {PLACE}, {wrong} FROM {ratings} "
            f"WHERE {at_least(number('rating'), self.min_rating)}"
        )
        _register_movies(database, movies)
        return Source(
            name="movielens",
            category="category",
            attributes=tuple(attributes),
            split=last_share_of_time(TEST_SHARE),
            notes=tuple(notes),
        )


def _people(folder: Path) -> Path | None:
    """users.dat of ml-1m; none in ml-10m, which has tags.dat instead."""
    path = folder / "users.dat"
    if path.exists() or not (folder / "tags.dat").exists():
        return path
    return None


def _other_folder(folder: Path) -> str:
    if (folder / "u.data").exists():
        return (
            f"{folder}: is ml-100k, whose files (u.data, u.item) are not read: "
            "download ml-latest-small, which is as small, or ml-1m"
        )
    return (
        f"{folder}: holds neither ratings.dat nor ratings.csv: "
        "name the unpacked folder of ml-1m, ml-10m, ml-25m or ml-32m"
    )


def _check_header(path: Path, columns: tuple[str, ...]) -> None:
    """Refuse a CSV file that lacks its header, or does not separate by commas.

    Raises:
        UserError: the same, and its cure; what else is wrong with the file is found later.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(1000).strip()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: unpack the whole download anew") from error
    if columns[0] not in line and line[:1].strip('"').isdigit():
        raise UserError(
            f"{path}: line 1 ({line[:40]}) is no header: put {','.join(columns)} above it"
        )
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if separator.join(columns) in line.replace('"', ""):
            raise UserError(f"{path}: line 1 separates by {word}: write the file with commas")


def _form_of_times(database: duckdb.DuckDBPyConnection, path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            rows = list(islice(csv.DictReader(file), LOOK_AT))
        except csv.Error:
            rows = []  # a damaged line, which DuckDB will name
    texts = [row.get("timestamp") for row in rows]
    database.execute("CREATE TEMP TABLE looked_at AS SELECT unnest(?::VARCHAR[]) AS text", [texts])
    form = form_of(database, "looked_at WHERE true", "trim(text)")
    database.execute("DROP TABLE looked_at")
    if form not in FORMS:
        raise UserError(
            f"{path}: row 1: timestamp {texts[0]!r}: write the times as seconds since 1970, or "
            "like 2026-01-31 12:00:00"
        )
    return form if any(texts) else "seconds"


def _in_utf8(path: Path, work: Path) -> Path:
    """The CSV file, or, where all but its header is in Latin-1, a copy in UTF-8."""
    content = path.read_bytes()
    header, _, rest = content.partition(b"\n")
    try:
        header.decode()
        rest.decode()
    except UnicodeDecodeError as error:
        if error.object == header or b"\0" in content:
            return path
        copy = work / path.name
        copy.write_bytes(header + b"\n" + rest.decode("latin-1").encode())
        return copy
    return path


def _register_movies(database: duckdb.DuckDBPyConnection, movies: str) -> None:
    genres = "CASE WHEN genres NOT LIKE '(no genres%' THEN string_split(genres, '|') END"
    database.execute(
        f"CREATE VIEW raw_items AS SELECT {integer('movieId')} AS item_id, title, "
        f"{genres} AS genres, ({genres})[1] AS category, "
        "nullif(regexp_extract(title, '\\((\\d{4})\\)\\s*$', 1), '') AS year, "
        f"{PLACE} FROM {movies}"
    )


def _register_people(database: duckdb.DuckDBPyConnection, path: Path, work: Path) -> None:
    people = _double_colons(path, work, ("userId", "gender", "age", "occupation", "zip"))
    database.execute(
        f"CREATE VIEW raw_users AS SELECT {integer('userId')} AS user_id, gender, age, "
        f"occupation, {PLACE} FROM {people}"
    )


def _double_colons(path: Path, work: Path, header: tuple[str, ...]) -> str:
    """SQL to stand after FROM: a small ``::`` file in UTF-8 (ml-10m) or Latin-1 (ml-1m).

    DuckDB cannot read Latin-1 itself.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: unpack the whole download anew") from error
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Not splitlines: to it, bytes that stand in titles, such as 0x85, end a line too.
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    rows = [line.removesuffix("\r").split("::") for line in lines]
    columns = {
        name: pa.array(
            [row[position] if position < len(row) else None for row in rows], pa.string()
        )
        for position, name in enumerate(header)
    }
    columns["_source_row"] = pa.array(range(1, len(rows) + 1), pa.int64())
    table = work / f"{path.stem}.parquet"
    pq.write_table(pa.table(columns), table)
    return f"(SELECT *, {quoted(path)} AS _source_file FROM {scan_parquet([table])})"
