"""Malformed exposures of KuaiRand-Pure in both layouts: counted, with the file and the row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.kuairand import (
    ITEM_ATTRIBUTES,
    LOGS,
    USER_ATTRIBUTES,
    USERS,
    VIDEOS,
    KuaiRand,
)
from dat_rec.errors import UserError

ROWS = 40
APRIL_MS = 1_650_000_000_000


def write_csv(path: Path, header: Sequence[str], rows: Sequence[str]) -> None:
    path.write_text("\n".join([",".join(header), *rows, ""]))


def run_csv(folder: Path, *odd: str, limit: float = 0.01) -> Schema:
    """Forty good exposures, half of them in May, then the odd lines in the first log."""
    lines = [f"{row % 4},{row % 5},2022{{}},{APRIL_MS + row},1" for row in range(ROWS)]
    header = ("user_id", "video_id", "date", "time_ms", "long_view")
    write_csv(folder / LOGS[0], header, [line.format("0410") for line in lines[::2]] + list(odd))
    write_csv(folder / LOGS[1], header, [line.format("0503") for line in lines[1::2]])
    blank = "," * len(USER_ATTRIBUTES)
    write_csv(folder / USERS, ("user_id", *USER_ATTRIBUTES), [f"{n}{blank}" for n in range(4)])
    blank = "," * len(ITEM_ATTRIBUTES)
    videos = [f"{n},{n},1.0{blank}" for n in range(5)]
    write_csv(folder / VIDEOS, ("video_id", "tag", "video_duration", *ITEM_ATTRIBUTES), videos)
    options = KuaiRand(path=folder, out=folder / "out", overwrite=True, max_rejected=limit)
    return prepare(options)


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("1,2,,1651500000000,1", "missing date", "nothing"),
        ("1,2,today,1651500000000,1", "date is no integer", "today"),
        ("1,2,20220410,1651500000000,", "long_view is no number", "nothing"),
        ("1,2,20220410,1651500000000,nan", "long_view is no number", "nan"),
        ("1.5,2,20220410,1651500000000,1", "user_id is no integer", "1.5"),
        ("1,2,20220410,99999999999999999,1", "unparsable time", "99999999999999999"),
    ],
)
def test_a_bad_line_is_shown_and_counted(tmp_path: Path, line: str, kind: str, value: str) -> None:
    with pytest.raises(UserError) as error:
        run_csv(tmp_path, line)
    place = f"{tmp_path / LOGS[0]}: row {ROWS // 2 + 1}: "
    assert str(error.value).startswith(f"{place}{kind} (value: {value})")
    schema = run_csv(tmp_path, line, limit=0.5)
    assert schema.rejected == {kind: 1}
    assert (schema.examples, schema.tests) == (ROWS // 2, ROWS // 2)


def test_short_watches_are_left_out_uncounted(tmp_path: Path) -> None:
    schema = run_csv(tmp_path, "1,2,,,0")
    assert (schema.rejected, schema.examples) == ({}, ROWS // 2)


def run_parquet(folder: Path, **odd: Any) -> Schema:
    """Forty good long watches, a quarter of them for the test; one with odd fields."""
    splits = ("train", "train", "val", "test")
    rows: list[dict[str, Any]] = [
        {
            "user_id": row // 4 % 4,
            "item_id": row % 5,
            "long_watch": 1.0,
            "order": row,
            "ts": 1_650_000_000 + row,
            "split": splits[row % 4],
        }
        for row in range(ROWS)
    ]
    rows.append({**rows[2], **odd})
    pq.write_table(pa.Table.from_pylist(rows), folder / "interactions.parquet")
    users = {"user_id": list(range(4)), **dict.fromkeys(USER_ATTRIBUTES, ["1"] * 4)}
    pq.write_table(pa.table(users), folder / "users.parquet")
    items = {"item_id": list(range(5)), "tag": ["1"] * 5, "video_duration": [1.0] * 5}
    items |= dict.fromkeys(ITEM_ATTRIBUTES, ["1"] * 5)
    pq.write_table(pa.table(items), folder / "items.parquet")
    return prepare(KuaiRand(path=folder, out=folder / "out", max_rejected=0.5))


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        ({"long_watch": None}, "missing long_watch"),
        ({"long_watch": float("nan")}, "missing long_watch"),
        ({"ts": 99_999_999_999_999_999}, "unparsable time"),
        ({"split": None}, "split is not train, val or test"),
    ],
)
def test_a_bad_row_of_the_other_layout_is_counted(
    tmp_path: Path, odd: dict[str, Any], kind: str
) -> None:
    schema = run_parquet(tmp_path, **odd)
    assert schema.rejected == {kind: 1}
    assert schema.examples + schema.tests == ROWS
