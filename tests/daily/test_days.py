"""From the first day to the last one."""

import pytest

from dat_rec.daily.days import days_between, folder_of
from dat_rec.errors import UserError


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        ("2024-02-28", "2024-03-01", ["2024-02-28", "2024-02-29", "2024-03-01"]),
        ("20231231", "20240101", ["20231231", "20240101"]),
        ("day=2026-11-01", "day=2026-11-02", ["day=2026-11-01", "day=2026-11-02"]),
        ("9", "11", ["9", "10", "11"]),
        ("-1", "1", ["-1", "0", "1"]),
        ("7", "7", ["7"]),
        ("year=2026/month=9", "year=2026/month=10", ["year=2026/month=9", "year=2026/month=10"]),
        # No date, and so an integer.
        ("20231331", "20231332", ["20231331", "20231332"]),
    ],
)
def test_every_day_between_them(first: str, last: str, found: list[str]) -> None:
    assert days_between(first, last) == found


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("2026-11-02", "2026-11-01", "--from 2026-11-02 --to 2026-11-01: the last day lies before"),
        ("2026-11-01", "7", "are not written alike"),
        ("7", "2026-11-01", "are not written alike"),
        ("day=7", "8", "are not written alike"),
        ("year=2026/month=11", "year=2027/month=1", "are not written alike"),
        ("2026-1-1", "2026-1-2", "--from 2026-1-1: is no day: write a date, as in 2026-11-01"),
        ("2026-02-30", "2026-03-01", "--from 2026-02-30: is no day"),
        ("1", "monday", "--to monday: is no day"),
        ("", "1", "--from : is no day"),
    ],
)
def test_what_are_no_two_days(first: str, last: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        days_between(first, last)
    assert words in str(error.value)


def test_a_folder_is_called_by_the_value() -> None:
    assert folder_of("day=2026-11-01") == folder_of("2026-11-01") == "2026-11-01"
