"""Ids in the types that other tools write them in: the same ids exactly, or one line."""

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.data.sources.prepared import Prepared, own, raw, refused, write

ROWS = 40
USERS = [row % 4 for row in range(ROWS)]
UUIDS = [uuid.UUID(int=number) for number in range(4)]


def log(folder: Path, users: Any, items: Any = None) -> None:
    items = [row % 5 for row in range(ROWS)] if items is None else items
    write(folder / "log.parquet", user_id=users, item_id=items, time=list(range(ROWS)))


def users_of(folder: Path, **changes: Any) -> set[Any]:
    """The ids that the source reads, with nothing said to be wrong."""
    rows = raw(own(folder, **changes), "user_id", "problem")
    assert {problem for _, problem in rows} == {None}
    return {user for user, _ in rows}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([2**53 - 1 - user for user in USERS], pa.float64()), 2**53 - 4),
        (pa.array([float(user) for user in USERS], pa.float32()), 0),
        (pa.array([Decimal(2**62 + user) for user in USERS], pa.decimal128(38, 0)), 2**62),
        (pa.array([Decimal(user) for user in USERS], pa.decimal128(10, 2)), 0),
        (pa.array([user + 7 for user in USERS]).dictionary_encode(), 7),
    ],
)
def test_whole_numbers_of_every_type_are_integers(tmp_path: Path, ids: Any, expected: int) -> None:
    log(tmp_path, ids)
    assert users_of(tmp_path) == set(range(expected, expected + 4))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["7", "007", "7.0", " 7"] * 10), {"7", "007", "7.0", " 7"}),
        (pa.array([f"u{user}" for user in USERS], pa.string_view()), {"u0", "u1", "u2", "u3"}),
        (pa.array([UUIDS[user].bytes for user in USERS], pa.uuid()), {*map(str, UUIDS)}),
    ],
)
def test_texts_stay_what_they_are(tmp_path: Path, ids: Any, expected: set[str]) -> None:
    log(tmp_path, ids)
    assert users_of(tmp_path) == expected


def test_floats_of_the_log_match_the_integers_of_the_tables(tmp_path: Path) -> None:
    log(tmp_path, [float(user) for user in USERS], [row % 5 + 0.0 for row in range(ROWS)])
    items = write(tmp_path / "items.parquet", item_id=list(range(5)), dept=list("abcde"))
    users = write(tmp_path / "users.parquet", user_id=list(range(4)))
    made = Prepared(own(tmp_path, items=items, users=users, category="dept"))
    assert made.attributes(3, "dept") == ("d",)


def test_pandas_missing_id_is_missing(tmp_path: Path) -> None:
    log(tmp_path, [float("nan"), *(float(user) for user in USERS[1:])])
    refused(own(tmp_path), "log.parquet: row 1: missing user_id (value: nothing)", "1 of 40 rows")


@pytest.mark.parametrize(
    ("odd", "kind", "words"),
    [
        (3.6, pa.float64(), "user_id 3.6 is no whole number: write the ids as integers or text"),
        (float("inf"), pa.float64(), "user_id inf is no whole number"),
        (2.0**53, pa.float64(), "is a float of 9007199254740992 or more, where two ids may be one"),
        (2.0**24, pa.float32(), "is a float of 16777216 or more"),
        (Decimal("3.50"), pa.decimal128(10, 2), "user_id 3.50 is no whole number"),
        (Decimal(2**64), pa.decimal128(38, 0), "is over 9223372036854775807: write the ids as"),
        (2**64 - 1, pa.uint64(), "user_id 18446744073709551615 is over 9223372036854775807"),
    ],
)
def test_a_number_that_is_no_exact_integer_is_refused(
    tmp_path: Path, odd: Any, kind: pa.DataType, words: str
) -> None:
    ids = [Decimal(user) if pa.types.is_decimal(kind) else user for user in USERS]
    log(tmp_path, pa.array([*ids[:6], odd, *ids[7:]], kind))
    refused(own(tmp_path), f"{tmp_path / 'log.parquet'}: row 7: ", words)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (pa.array([bytes([user]) for user in USERS]), "binary"),
        (pa.array([bytes([user] * 16) for user in USERS], pa.binary(16)), "binary"),
        (pa.array([user % 2 == 0 for user in USERS]), "true or false"),
        (pa.array([[user] for user in USERS]), "a list"),
        (pa.array([{"id": user} for user in USERS]), "a struct"),
        (pa.array(USERS, pa.date32()), "a date"),
        (pa.array(USERS, pa.timestamp("us")), "a time"),
    ],
)
@pytest.mark.parametrize("side", ["user_id", "item_id"])
def test_other_types_are_refused(tmp_path: Path, ids: Any, kind: str, side: str) -> None:
    log(tmp_path, *((ids, None) if side == "user_id" else (USERS, ids)))
    refused(
        own(tmp_path),
        f"{tmp_path / 'log.parquet'}: id '{side}' is {kind}: write it as integers or text",
        f"e.g. CAST({side} AS VARCHAR)",
    )


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        ([-(2**62), 5, -1, 7], pa.int64(), {str(-(2**62)), "5", "-1", "7"}),
        ([2**64 - 1, 0, 1, 2], pa.uint64(), {str(2**64 - 1), "0", "1", "2"}),
        ([Decimal(2**70), Decimal(-3)] * 2, pa.decimal128(38, 0), {str(2**70), "-3"}),
        ([7.0, 8.0] * 2, pa.float64(), {"7", "8"}),
        (["7", "007"] * 2, pa.string(), {"7", "007"}),
    ],
)
def test_hashes_are_read_as_text(
    tmp_path: Path, ids: list[Any], kind: pa.DataType, expected: set[str]
) -> None:
    log(tmp_path, pa.array([ids[user] for user in USERS], kind))
    assert users_of(tmp_path, text_ids=True) == expected


def test_a_negative_id_names_the_option_for_hashes(tmp_path: Path) -> None:
    log(tmp_path, [-user for user in USERS])
    refused(own(tmp_path), "log.parquet: row 2: negative user_id (value: -1)", "--text-ids")
