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
