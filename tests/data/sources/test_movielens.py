"""MovieLens: hand-made folders in both layouts, and what a hand calculation makes of them."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.sources.movielens import MovieLens
from tests.data.sources.prepared import Prepared, bad_rows, by_time, raw, refused

SECOND = 1_000_000

MOVIES = {
    1: ("Toy Story (1995)", "Animation|Children's|Comedy"),
    2: ("Amélie, or: Life (2001)", "Comedy|Romance"),
    3: ("No Year", "Drama"),
    4: ("Babylon 5 (Pilot) (1993) ", "(no genres listed)"),
}
PEOPLE = {1: ("F", "1", "10"), 2: ("M", "56", "16"), 5: ("M", "25", "0")}
# user, movie, rating, timestamp
RATINGS = [
    (1, 1, "5", 100),
    (1, 2, "4", 200),
    (2, 1, "3.5", 300),
    (2, 3, "4", 300),
    (2, 4, "4.5", 400),
    (1, 3, "5", 500),
    (1, 4, "1", 2000),
    (2, 2, "5", 1000),
    (2, 1, "4", 600),
    (1, 1, "4", 600),
    (2, 3, "4", 700),
    (1, 2, "5", 800),
]


def positives(least: float) -> list[tuple[int, int, int]]:
    """By time."""
    return by_time((u, movie, time * SECOND) for u, movie, r, time in RATINGS if float(r) >= least)


def write_lines(path: Path, lines: list[str], encoding: str = "utf-8", end: str = "\n") -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding, newline=end)


def write_ml_1m(folder: Path, ratings: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["::".join(map(str, row)) for row in RATINGS] if ratings is None else ratings
    write_lines(folder / "ratings.dat", lines, "latin-1")
    movies = [f"{number}::{title}::{genres}" for number, (title, genres) in MOVIES.items()]
    write_lines(folder / "movies.dat", movies, "latin-1")
    people = [f"{number}::{'::'.join(values)}::48067" for number, values in PEOPLE.items()]
    write_lines(folder / "users.dat", people)
    return folder


def write_ml_25m(folder: Path, ratings: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [",".join(map(str, row)) for row in RATINGS] if ratings is None else ratings
    write_lines(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *lines])
    movies = [f'{number},"{title}",{genres}' for number, (title, genres) in MOVIES.items()]
    write_lines(folder / "movies.csv", ["movieId,title,genres", *movies], end="\r\n")
    return folder


SEPARATOR = {write_ml_1m: "::", write_ml_25m: ","}
WRITERS = pytest.mark.parametrize("write", SEPARATOR)


def options(folder: Path, **changes: Any) -> MovieLens:
    return MovieLens(**{"path": folder, "out": folder.parent / "out", **changes})


def read(folder: Path, **changes: Any) -> list[tuple[int, int, int]]:
    """The interactions that the source reads, by time, with nothing said to be wrong."""
    rows = raw(options(folder, **changes), "user_id", "item_id", "time", "problem")
    assert {row[3] for row in rows} == {None}
    return by_time(row[:3] for row in rows)


@WRITERS
def test_positives_are_split_by_time(tmp_path: Path, write: Any) -> None:
    made = Prepared(options(write(tmp_path / "ml")))
    expected = positives(4.0)
    assert len(expected) == 10
    assert made.triples("train") == expected[:9]
    assert made.triples("test") == expected[9:] == [(2, 2, 1000 * SECOND)]
    assert (made.schema.rows_read, made.schema.rejected) == (10, {})


@WRITERS
def test_equal_times_are_held_out_together(tmp_path: Path, write: Any) -> None:
    """Ten positives: one would be held out, but two are of the last time."""
    ratings = [SEPARATOR[write].join(["1", "1", "5", str(min(time, 8))]) for time in range(10)]
    made = Prepared(options(write(tmp_path / "ml", ratings)))
    assert made.triples("train") == [(1, 1, time * SECOND) for time in range(8)]
    assert made.triples("test") == [(1, 1, 8 * SECOND)] * 2


@WRITERS
def test_the_films_attributes(tmp_path: Path, write: Any) -> None:
    made = Prepared(options(write(tmp_path / "ml")))
    names = ("title", "category_name", "category", "genres", "year")
    cartoon = ["Animation", "Children's", "Comedy"]
    assert made.attributes(1, *names) == (MOVIES[1][0], cartoon[0], cartoon[0], cartoon, "1995")
    assert made.attributes(2, *names)[0] == "Amélie, or: Life (2001)"
    assert made.attributes(3, *names) == ("No Year", "Drama", "Drama", ["Drama"], None)
    assert made.attributes(4, *names)[1:] == ("(unknown)", None, [], "1993")


def test_ml_1m_alone_has_peoples_attributes(tmp_path: Path) -> None:
    made = Prepared(options(write_ml_1m(tmp_path / "1m")))
    found = {u: (row["gender"], row["age"], row["occupation"]) for u, row in made.users.items()}
    assert found == PEOPLE
    assert {u: row["trained"] for u, row in made.users.items()} == {1: True, 2: True, 5: False}
    other = Prepared(options(write_ml_25m(tmp_path / "25m"), out=tmp_path / "b"))
    features = [
        {feature.name for feature in schema.features} for schema in (made.schema, other.schema)
    ]
    assert features[0] - features[1] == {"gender", "age", "occupation"}


@pytest.mark.parametrize("least", [3.0, 3.5, 4.5])
def test_the_least_rating_can_be_chosen(tmp_path: Path, least: float) -> None:
    assert read(write_ml_25m(tmp_path / "ml"), min_rating=least) == positives(least)


def test_integers_may_be_written_with_a_fraction_of_nought(tmp_path: Path) -> None:
    folder = write_ml_25m(tmp_path / "ml", ["1.0, +2 ,5.0,700.00", "1,1,5.0,900"])
    assert read(folder) == [(1, 2, 700 * SECOND), (1, 1, 900 * SECOND)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_odd_byte_does_not_break_a_line(tmp_path: Path, end: bytes) -> None:
    """To Unicode, 0x85 in Latin-1 is a line break; in a title it is an ellipsis."""
    folder = write_ml_1m(tmp_path / "ml")
    movies = (folder / "movies.dat").read_bytes().replace(b"\n", end)
    title = "No\x85\x0b\x1c\r Year"
    (folder / "movies.dat").write_bytes(movies.replace(b"No Year", title.encode("latin-1")))
    made = Prepared(options(folder))
    assert made.attributes(3, "title", "genres") == (title, ["Drama"])
    assert made.schema.rejected == {}


BAD_ROWS = [
    (("x", "1", "5", "90"), "userId is no integer", "x"),
    (("1.5", "1", "5", "90"), "userId is no integer", "1.5"),
    (("1e1", "1", "5", "90"), "userId is no integer", "1e1"),
    (("1", "1.5", "5", "90"), "movieId is no integer", "1.5"),
    (("1", "1", "five", "90"), "rating is no number", "five"),
    (("1", "1", "", "90"), "rating is no number", "nothing"),
    (("1", "1", "nan", "90"), "rating is no number", "nan"),
    (("1", "1", "inf", "90"), "rating is no number", "inf"),
    (("1", "1", "-inf", "90"), "rating is no number", "-inf"),
    (("1", "1", "5", "soon"), "timestamp is no integer", "soon"),
    (("1", "1", "5", "9.5"), "timestamp is no integer", "9.5"),
    (("1", "1", "5", ""), "unparsable time", "nothing"),
    (("1", "1", "5", "99999999999999999"), "unparsable time", "99999999999999999"),
    (("", "1", "5", "90"), "missing user_id", "nothing"),
    (("1", "", "5", "90"), "missing item_id", "nothing"),
    (("-1", "1", "5", "90"), "negative user_id", "-1"),
    (("1", "77", "5", "90"), "item not in the catalogue", "77"),
    (("1", "1", "5"), "unparsable time", "nothing"),
    (("1", "1"), "rating is no number", "nothing"),
]


def with_bad_rows(folder: Path, write: Any, rows: list[tuple[str, ...]]) -> Path:
    """From row 4 on."""
    separator = SEPARATOR[write]
    lines = [separator.join(map(str, row)) for row in RATINGS]
    lines[3:3] = [separator.join(fields) for fields in rows]
    return Path(write(folder, lines))


@WRITERS
def test_bad_ratings_are_located_and_counted_by_kind(tmp_path: Path, write: Any) -> None:
    folder = with_bad_rows(tmp_path / "ml", write, [fields for fields, _, _ in BAD_ROWS])
    (path,) = map(str, folder.glob("ratings.*"))
    rows = enumerate(BAD_ROWS, 4)
    expected = [(path, row, kind, value) for row, (_, kind, value) in rows]
    assert bad_rows(options(folder)) == expected
    start = f"{path}: row 4: userId is no integer (value: x): correct or remove the row. "
    refused(options(folder, max_rejected=0.5), f"{start}19 of 29 rows", "--max-rejected")
    made = Prepared(options(folder, max_rejected=0.66))
    assert made.schema.rejected == Counter(kind for _, kind, _ in BAD_ROWS)
    assert made.triples("train") + made.triples("test") == positives(4.0)


def test_bad_films_and_people_are_counted(tmp_path: Path) -> None:
    folder = write_ml_1m(tmp_path / "ml")
    with (folder / "movies.dat").open("a") as file:
        file.write("4::Twice (1999)::Drama\nfive::Five (1999)::Drama\n")
    with (folder / "users.dat").open("a") as file:
        file.write("2::F::1::1::00000\n")
    refused(options(folder), "movies.dat: row 5: duplicate item_id in items (value: 4)", "keep one")
    refused(options(folder, max_rejected=0.24), "2 of 6 rows of the items")
    made = Prepared(options(folder, max_rejected=0.34))
    assert made.schema.rejected == {
        "duplicate item_id in items": 1,
        "duplicate user_id in users": 1,
        "missing item_id in items": 1,
    }
    assert made.attributes(4, "title") == (MOVIES[4][0],)
    assert made.users[2]["gender"] == "M"


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_ml_1m, "movies.dat"), (write_ml_1m, "users.dat"), (write_ml_25m, "movies.csv")],
)
def test_a_missing_file(tmp_path: Path, write: Any, name: str) -> None:
    folder = write(tmp_path / "ml")
    (folder / name).unlink()
    refused(options(folder), f"{folder / name}: No such file", "unpack the whole download anew")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "ml: no such file or folder: correct the path"),
        ("README", "ml: holds neither ratings.dat nor ratings.csv: name the unpacked folder"),
        ("u.data", "ml: is ml-100k, whose files (u.data, u.item) are not read: download ml-latest"),
    ],
)
def test_another_folder(tmp_path: Path, name: str | None, words: str) -> None:
    if name is not None:
        (tmp_path / "ml").mkdir()
        (tmp_path / "ml" / name).touch()
    refused(options(tmp_path / "ml"), words)


@pytest.mark.parametrize("column", ["userId", "movieId", "rating", "timestamp"])
def test_a_missing_column_of_the_ratings(tmp_path: Path, column: str) -> None:
    folder = write_ml_25m(tmp_path / "ml")
    text = (folder / "ratings.csv").read_text()
    (folder / "ratings.csv").write_text(text.replace(column, "other", 1))
    refused(options(folder), f"ratings.csv: column '{column}' is missing: it has")


def test_titles_in_latin1_are_read_as_such(tmp_path: Path) -> None:
    folder = write_ml_25m(tmp_path / "ml")
    movies = folder / "movies.csv"
    movies.write_bytes(movies.read_bytes().decode().encode("latin-1"))
    made = Prepared(options(folder))
    assert made.attributes(2, "title") == ("Amélie, or: Life (2001)",)
    assert "movies.csv is not in UTF-8: it is read as Latin-1" in made.schema.notes
    movies.write_bytes(movies.read_bytes() + b'2,"again \xe9",Drama\r\n')
    refused(options(folder, out=tmp_path / "b"), f"{movies}: row 5: duplicate item_id in items")


def write_ml_10m(folder: Path) -> Path:
    """Like ml-1m, but its films in UTF-8, half stars, tags for people."""
    write_ml_1m(folder, ["::".join(map(str, row)) for row in [*RATINGS, (7, 1, "4.5", 50)]])
    movies = (folder / "movies.dat").read_bytes().decode("latin-1")
    (folder / "movies.dat").write_text(movies, "utf-8")
    (folder / "users.dat").unlink()
    (folder / "tags.dat").write_text("15::1::excellent!::1215184630\n")
    return folder


def test_ml_10m_has_no_people_and_titles_in_utf8(tmp_path: Path) -> None:
    made = Prepared(options(write_ml_10m(tmp_path / "ml")))
    assert made.attributes(2, "title") == ("Amélie, or: Life (2001)",)
    assert set(made.users) == {1, 2, 7}
    assert made.triples("train")[0] == (7, 1, 50 * SECOND)
    names = {feature.name for feature in made.schema.features}
    assert not names & {"gender", "age", "occupation"}


HEADER = b"userId,movieId,rating,timestamp"
Change = Callable[[bytes], bytes]


def prefixed(first: bytes, others: bytes) -> Change:
    """Columns before the others; the first line's has another content."""
    return lambda text: first + text.rstrip().replace(b"\n", b"\n" + others)


SAVED_ANEW: dict[str, Change] = {
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text,
    "CR LF": lambda text: text.replace(b"\n", b"\r\n"),
    "all quoted": lambda text: re.sub(rb"[^,\n]+", rb'"\g<0>"', text),
    "an index": prefixed(b",", b"7,"),
    "two indexes": prefixed(b",,", b"7,7,"),
    "floats": lambda text: re.sub(rb"(?<![.\d])\d+(?![.\d])", rb"\g<0>.0", text),
    "blank lines": lambda text: text.replace(b"\n", b"\n\n"),
}


@pytest.mark.parametrize("how", SAVED_ANEW)
def test_a_file_that_another_tool_has_saved_is_the_same_log(tmp_path: Path, how: str) -> None:
    folder = write_ml_25m(tmp_path / "ml")
    ratings = folder / "ratings.csv"
    ratings.write_bytes(SAVED_ANEW[how](ratings.read_bytes()))
    assert read(folder) == positives(4.0)


def test_iso_times_are_the_same_moments(tmp_path: Path) -> None:
    lines = [
        f"{user},{movie},{rating},1970-01-01 00:{time // 60:02}:{time % 60:02}"
        for user, movie, rating, time in RATINGS
    ]
    assert read(write_ml_25m(tmp_path / "ml", lines)) == positives(4.0)
    lines[0] = "1,1,5,100"
    folder = write_ml_25m(tmp_path / "ml", lines)
    refused(options(folder), "ratings.csv: row 1: unparsable time (value: 100)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: text.replace(HEADER + b"\n", b""),
            "line 1 (1,1,5,100) is no header: put userId,movieId,rating,timestamp above it",
        ),
        (lambda text: b"", "the file is empty"),
        (lambda text: text.replace(b",", b";"), "line 1 separates by semicolons: write the file"),
        (lambda text: text.replace(b",", b"\t"), "line 1 separates by tabs: write the file"),
        (
            lambda text: text.replace(b"\n", b"\r\n").replace(b"200\r", b"200"),
            "line 1 ends in CR LF, line 3 in LF: convert the line ends",
        ),
        (
            lambda text: text.replace(b"200\n", b"200\r\n"),
            "line 1 ends in LF, line 3 in CR LF: convert the line ends",
        ),
        (lambda text: text.decode().encode("utf-16"), "line 1 is no CSV in UTF-8"),
        (
            lambda text: HEADER + b"\n" + b"1,1,5,01/02/2026\n" * 9,
            "row 1: timestamp '01/02/2026': write the times as seconds since 1970, or like 2026-",
        ),
    ],
)
def test_what_another_tool_has_saved_amiss_is_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    folder = write_ml_25m(tmp_path / "ml")
    ratings = folder / "ratings.csv"
    ratings.write_bytes(change(ratings.read_bytes()))
    refused(options(folder), f"{ratings}: {words}")


def test_a_log_of_a_header_alone_is_empty(tmp_path: Path) -> None:
    refused(options(write_ml_25m(tmp_path / "ml", [])), "the interactions are empty")


@pytest.mark.parametrize("least", [float("nan"), float("inf")])
def test_a_least_rating_that_is_no_number_is_refused(tmp_path: Path, least: float) -> None:
    message = refused(options(write_ml_25m(tmp_path / "ml"), min_rating=least))
    assert message == f"--min-rating {least}: must be a finite number"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,5.0,964982703,9", "Expected Number of Columns: 4 Found: 5"),
        ('1,"2"x,5.0,964982703', "Value with unterminated quote found"),
        ('1,"2,5.0,964982703\n1,3,5.0,964982703', "Value with unterminated quote found"),
        ("1,2,5.0,\xe9", "Invalid unicode (byte sequence mismatch) detected. This file is"),
    ],
)
def test_a_line_that_is_no_csv_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """DuckDB cannot tell what such a line swallows, so that it must not be counted as one row."""
    folder = write_ml_25m(tmp_path / "ml")
    ratings = folder / "ratings.csv"
    ratings.write_bytes(ratings.read_bytes() + f"{line}\n".encode("latin-1"))
    message = refused(options(folder, max_rejected=0.5))
    assert message.startswith(f"{ratings}: line {len(RATINGS) + 2}: {reason}")
    assert message.endswith("correct or remove the line")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"movieId,title,genres,Title\n1,a,b,c\n", "the columns 'title' and 'Title' have one"),
        (b"movieId,title\xff\n1,a\n", "line 1 is no CSV in UTF-8 ("),
        (b"a" * 140_000, "line 1 is no CSV in UTF-8 ("),
        # No text in Latin-1 holds a NUL.
        (b"movieId,title,genres\n1,a\0\xe9,b\n", "line 2: Invalid unicode"),
    ],
)
def test_damaged_films_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    folder = write_ml_25m(tmp_path / "ml")
    (folder / "movies.csv").write_bytes(content)
    message = refused(options(folder), f"{folder / 'movies.csv'}: {words}")
    assert message.endswith(("convert it", "rename one", "correct or remove the line"))
