"""Clocks that are apart, which those of one machine are not."""

import pytest

from dat_rec.preflight.clocks import check_clocks
from tests.preflight.test_rank_checks import judged


@pytest.mark.parametrize(
    ("offset_s", "level", "words"),
    [
        (0.9, "ok", "within 900.0 ms"),
        (-1.1, "note", "b is 1.1 s behind the first host"),
        (59.0, "note", "b is 59.0 s ahead of the first host"),
        (-3600.0, "problem", "b is 3600.0 s behind the first host"),
    ],
)
def test_clocks_apart_by_a_second_are_noted_and_by_a_minute_refused(
    offset_s: float, level: str, words: str
) -> None:
    found = judged(check_clocks({"c": 0.001, "b": offset_s}))["clocks"]
    assert found[:2] == (level, words)
