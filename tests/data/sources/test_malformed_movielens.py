"""Malformed ratings of MovieLens: counted, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.prepare import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.movielens import MovieLens
from dat_rec.errors import UserError

ROWS = 40
MOVIES = "movieId,title,genres\n" + "".join(f"{n},Film {n} (1999),Drama\n" for n in range(5))


def run(folder: Path, *odd: str, **options: Any) -> Schema:
    """Forty good ratings of five, then the odd lines."""
    ratings = [f"{row % 4},{row % 5},5.0,{964982000 + row}" for row in range(ROWS)]
    lines = ["userId,movieId,rating,timestamp", *ratings, *odd]
    (folder / "ratings.csv").write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    (folder / "movies.csv").write_text(MOVIES)
    return prepare(MovieLens(path=folder, out=folder / "out", overwrite=True, **options))


def refusal(folder: Path, *odd: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        run(folder, *odd, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("1,2,,964982703", "rating is no number", "nothing"),
        ("1,2,nan,964982703", "rating is no number", "nan"),
        ("1,2,inf,964982703", "rating is no number", "inf"),
        ("1,2,-inf,964982703", "rating is no number", "-inf"),
        ("1,2,good,964982703", "rating is no number", "good"),
        ("1.5,2,5.0,964982703", "userId is no integer", "1.5"),
        ("1e1,2,5.0,964982703", "userId is no integer", "1e1"),
        ("1,2.5,5.0,964982703", "movieId is no integer", "2.5"),
        ("1,2,5.0,9.5", "timestamp is no integer", "9.5"),
        ("1,2,5.0,99999999999999999", "unparsable time", "99999999999999999"),
        (",2,5.0,964982703", "missing user_id", "nothing"),
    ],
)
def test_a_bad_line_is_shown_and_counted(tmp_path: Path, line: str, kind: str, value: str) -> None:
    message = refusal(tmp_path, line)
    assert f"{tmp_path / 'ratings.csv'}: row {ROWS + 1}: {kind} (value: {value})" in message
    schema = run(tmp_path, line, max_rejected=0.5)
    assert schema.rejected == {kind: 1}
    assert schema.examples + schema.tests == ROWS


def test_ratings_below_the_least_are_left_out_uncounted(tmp_path: Path) -> None:
    schema = run(tmp_path, "1,2,3.5,964982703", "1,2,4.0,964982703")
    assert schema.rejected == {}
    assert schema.examples + schema.tests == ROWS + 1


def test_integers_may_be_written_with_a_fraction_of_nought(tmp_path: Path) -> None:
    schema = run(tmp_path, "1.0, +2 ,5.0,964982703.00")
    assert (schema.rejected, schema.users) == ({}, 4)


@pytest.mark.parametrize("least", [float("nan"), float("inf")])
def test_a_least_rating_that_is_no_number_is_refused(tmp_path: Path, least: float) -> None:
    message = refusal(tmp_path, min_rating=least)
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
    message = refusal(tmp_path, line, max_rejected=0.5)
    assert message.startswith(f"{tmp_path / 'ratings.csv'}: line {ROWS + 2}: {reason}")
    assert message.endswith("correct or remove the line")


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,title,genres,Title\n1,a,b,c\n")
    with pytest.raises(UserError, match=r"movies.csv: the columns 'title' and 'Title' have one"):
        prepare(MovieLens(path=tmp_path, out=tmp_path / "other"))


@pytest.mark.parametrize("content", [b"movieId,title\xff\n1,a\n", b"a" * 140_000])
def test_a_header_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    run(tmp_path)
    (tmp_path / "movies.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"movies.csv: line 1 is no CSV in UTF-8 \(.*: convert it"):
        prepare(MovieLens(path=tmp_path, out=tmp_path / "other"))
