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

from dat_rec.data.prepare.options import Options
from dat_rec.data.scan import scan_parquet
from dat_rec.data.source import Attribute, Source, last_share_of_time, quoted
from dat_rec.data.sources.tables import (
    NO_USERS,
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
PEOPLE_COLUMNS = ("userId", "gender", "age", "occupation", "zip")
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
        time, integers = microseconds(integer("timestamp"), 1_000_000), ["timestamp"]
        people = None
        if (self.path / "ratings.dat").exists():
            ratings = delimited(
                database,
                self.path / "ratings.dat",
                RATING_COLUMNS,
                separator="::",
                header=RATING_COLUMNS,
            )
            movies = _double_colons(self.path / "movies.dat", work, FILM_COLUMNS)
            # ml-10m has tags.dat in place of the people's attributes.
            if (self.path / "users.dat").exists() or not (self.path / "tags.dat").exists():
                people = _double_colons(self.path / "users.dat", work, PEOPLE_COLUMNS)
        elif (self.path / "ratings.csv").exists():
            _check_header(self.path / "ratings.csv", RATING_COLUMNS)
            ratings = delimited(database, self.path / "ratings.csv", RATING_COLUMNS)
            form = _form_of_times(database, self.path / "ratings.csv")
            if form not in EPOCH:
                time, integers = FORMS[form].micros('trim("timestamp")'), []
            _check_header(self.path / "movies.csv", FILM_COLUMNS)
            path = _in_utf8(self.path / "movies.csv", work)
            if path.parent == work:
                notes.append("movies.csv is not in UTF-8: it is read as Latin-1")
            movies = (
                f"(SELECT * REPLACE ({quoted(self.path / 'movies.csv')} AS _source_file) "
                f"FROM {delimited(database, path, FILM_COLUMNS)})"
            )
        else:
            raise _other_folder(self.path)
        wrong = problem("userId", "movieId", *integers, time="timestamp", numbers=("rating",))
        # A rating that is no number stays, so that the checks can count it.
        database.execute(
            f"CREATE VIEW raw_interactions AS SELECT {integer('userId')} AS user_id, "
            f"{integer('movieId')} AS item_id, {time} AS time, {PLACE}, {wrong} FROM {ratings} "
            f"WHERE {at_least(number('rating'), self.min_rating)}"
        )
        _register_movies(database, movies)
        if people is None:
            database.execute(NO_USERS)
        else:
            database.execute(
                f"CREATE VIEW raw_users AS SELECT {integer('userId')} AS user_id, "
                f"gender, age, occupation, {PLACE} FROM {people}"
            )
            attributes += [Attribute(name, "query") for name in PEOPLE_COLUMNS[1:-1]]
        return Source(
            name="movielens",
            category="category",
            attributes=tuple(attributes),
            split=last_share_of_time(TEST_SHARE),
            notes=tuple(notes),
        )


def _other_folder(folder: Path) -> UserError:
    if (folder / "u.data").exists():
        return UserError(
            f"{folder}: is ml-100k, whose files (u.data, u.item) are not read: "
            "download ml-latest-small, which is as small, or ml-1m"
        )
    return UserError(
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
    if _encoding(content) == "utf-8" or _encoding(header) != "utf-8" or b"\0" in content:
        return path
    copy = work / path.name
    copy.write_bytes(header + b"\n" + rest.decode("latin-1").encode())
    return copy


def _encoding(content: bytes) -> str:
    try:
        content.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _register_movies(database: duckdb.DuckDBPyConnection, movies: str) -> None:
    genres = "CASE WHEN genres NOT LIKE '(no genres%' THEN string_split(genres, '|') END"
    database.execute(
        f"CREATE VIEW raw_items AS SELECT {integer('movieId')} AS item_id, title, "
        f"{genres} AS genres, ({genres})[1] AS category, "
        "nullif(regexp_extract(title, '\\((\\d{4})\\)\\s*$', 1), '') AS year, "
        f"{PLACE} FROM {movies}"
    )


def _double_colons(path: Path, work: Path, header: tuple[str, ...]) -> str:
    """SQL to stand after FROM: a small ``::`` file in UTF-8 (ml-10m) or Latin-1 (ml-1m).

    DuckDB cannot read Latin-1 itself.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: unpack the whole download anew") from error
    # Not splitlines: to it, bytes that stand in titles, such as 0x85, end a line too.
    lines = content.decode(_encoding(content)).split("\n")
    if not lines[-1]:
        lines.pop()
    rows = [
        {
            "_source_row": number,
            **dict(zip(header, line.removesuffix("\r").split("::"), strict=False)),
        }
        for number, line in enumerate(lines, 1)
    ]
    schema = pa.schema([("_source_row", pa.int64()), *((name, pa.string()) for name in header)])
    table = work / f"{path.stem}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), table)
    return f"(SELECT *, {quoted(path)} AS _source_file FROM {scan_parquet([table])})"
