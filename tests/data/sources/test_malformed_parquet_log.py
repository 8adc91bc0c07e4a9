"""Odd columns, labels, times and ids in one's own Parquet files: counted, or refused."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare import prepare
from dat_rec.data.schema import Schema
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.errors import UserError

ROWS = 60


def log(**columns: Any) -> dict[str, Any]:
    return {
        "user_id": [row % 6 for row in range(ROWS)],
        "item_id": [row % 5 for row in range(ROWS)],
        "time": list(range(ROWS)),
        **columns,
    }


def catalogue(**columns: Any) -> dict[str, Any]:
    return {"item_id": list(range(5)), **columns}


def run(
    folder: Path, rows: dict[str, Any], items: dict[str, Any] | None = None, **options: Any
) -> Schema:
    pq.write_table(pa.table(rows), folder / "log.parquet")
    if items is not None:
        pq.write_table(pa.table(items), folder / "items.parquet")
        options["items"] = folder / "items.parquet"
    return prepare(ParquetLog(interactions=folder / "log.parquet", out=folder / "out", **options))


def refusal(
    folder: Path, rows: dict[str, Any], items: dict[str, Any] | None = None, **options: Any
) -> str:
    with pytest.raises(UserError) as error:
        run(folder, rows, items, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def examples(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "out" / "examples").to_pylist()
    return rows


def names(folder: Path, feature: str) -> list[str]:
    table = pq.read_table(folder / "out" / "vocabularies" / f"{feature}.parquet")
    return [value for value in table["value"].to_pylist() if value is not None]


@pytest.mark.parametrize("name", ["start", "stop", "shuffle"])
def test_a_feature_may_bear_a_name_of_the_inner_tables(tmp_path: Path, name: str) -> None:
    run(tmp_path, log(), catalogue(**{name: list("abcde")}), item_features=(name,))
    assert names(tmp_path, name) == list("abcde")
    assert {row["item"]: row[name] for row in examples(tmp_path)} == {n: n for n in range(1, 6)}


def test_a_feature_that_cannot_name_a_file_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, log(), catalogue(**{"a/b": list("abcde")}), item_features=("a/b",))
    assert "attribute 'a/b'" in message
    assert "rename the column" in message


def test_a_reserved_name_in_other_letters_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, log(), catalogue(Title=list("abcde")), item_features=("Title",))
    assert "attribute 'Title': the name is reserved" in message


@pytest.mark.parametrize("name", ["filename", "file", "row", "problem", "value", "_file"])
def test_columns_that_are_not_asked_for_do_no_harm(tmp_path: Path, name: str) -> None:
    rows = log(**{name: ["/etc/passwd"] * ROWS})
    rows["user_id"][7] = None
    message = refusal(tmp_path, rows, max_rejected=0.0)
    assert f"{tmp_path / 'log.parquet'}: row 8: missing user_id" in message


def test_an_id_may_stand_in_a_column_called_row(tmp_path: Path) -> None:
    rows = log()
    rows["row"], rows["file"] = rows.pop("user_id"), rows.pop("item_id")
    schema = run(tmp_path, rows, user_id="row", item_id="file")
    assert (schema.users, schema.items) == (6, 5)


@pytest.mark.parametrize("name", ["File_Row_Number", "_source_file", "_source_width"])
def test_a_column_that_hides_a_rows_place_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, log(**{name: list(range(ROWS))}))
    assert f"log.parquet: column {name!r}" in message
    assert "rename the column" in message


@pytest.mark.parametrize("category", ["Cat", "cat"])
def test_columns_that_differ_only_in_case_are_refused(tmp_path: Path, category: str) -> None:
    items = catalogue(Cat=list("abcde"), cat=list("vwxyz"))
    message = refusal(tmp_path, log(), items, category=category)
    assert "items.parquet: the columns 'Cat' and 'cat' have one name" in message


def test_a_missing_column_is_told_from_the_files_own(tmp_path: Path) -> None:
    message = refusal(tmp_path, log(), time="when")
    assert "column 'when' is missing: it has user_id, item_id, time; name" in message


def test_missing_labels_are_no_positives(tmp_path: Path) -> None:
    labels = [(0.0, 5.0, float("nan"), None)[row % 4] for row in range(ROWS)]
    rows = log(good=labels)
    message = refusal(tmp_path, rows, label="good")
    assert "log.parquet: row 3: missing label (value: nan): fill it in or remove the row" in message
    schema = run(tmp_path, rows, label="good", max_rejected=1.0)
    assert schema.rejected == {"missing label": ROWS // 2}
    assert schema.examples + schema.tests == labels.count(5.0)


@pytest.mark.parametrize("type_", [pa.bool_(), pa.uint64(), pa.decimal128(5, 2)])
def test_labels_of_every_number_type(tmp_path: Path, type_: pa.DataType) -> None:
    values = pa.array([row % 2 for row in range(ROWS)], pa.int8()).cast(type_)
    schema = run(tmp_path, log(good=values), label="good")
    assert schema.examples + schema.tests == ROWS // 2


@pytest.mark.parametrize("least", [float("nan"), float("inf")])
def test_a_least_label_that_is_no_number_is_refused(tmp_path: Path, least: float) -> None:
    message = refusal(tmp_path, log(good=[1] * ROWS), label="good", min_label=least)
    assert message == f"--min-label {least}: must be a finite number"


def test_text_times_keep_their_offset(tmp_path: Path) -> None:
    """Noon at +10:00 is 02:00 UTC; without an offset, noon is noon UTC."""
    odd = {"2024-01-01T12:00:00+10:00": 2, "2024-01-01 12:00:00": 12, "2024-01-01T12:00:00Z": 12}
    texts = [*odd, *(f"2024-01-02 00:00:{row:02}" for row in range(3, ROWS))]
    run(tmp_path, log(time=texts))
    first = sorted(row["time"] for row in examples(tmp_path))[:3]
    midnight = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    assert first == [(midnight + hour * 3600) * 1_000_000 for hour in sorted(odd.values())]


def test_times_that_no_int64_holds_are_counted(tmp_path: Path) -> None:
    times = pa.array([*range(ROWS - 1), 2**64 - 1], pa.uint64())
    assert run(tmp_path, log(time=times), max_rejected=0.5).rejected == {"unparsable time": 1}


def test_an_empty_text_id_is_one_bad_row_of_the_log(tmp_path: Path) -> None:
    ids = ["", *(f"i{row % 5}" for row in range(1, ROWS))]
    message = refusal(tmp_path, log(item_id=ids))
    assert f"row 1: missing item_id (value: ): fill it in or remove the row. 1 of {ROWS}" in message
    schema = run(tmp_path, log(item_id=ids), max_rejected=0.05)
    assert (schema.items, schema.rejected) == (5, {"missing item_id": 1})


def test_uint64_ids_are_integers(tmp_path: Path) -> None:
    ids = pa.array([row % 6 for row in range(ROWS)], pa.uint64())
    assert run(tmp_path, log(user_id=ids)).users == 6
    assert run(tmp_path, log(item_id=ids), overwrite=True).items == 6


def test_uint64_ids_beyond_int64_are_refused(tmp_path: Path) -> None:
    ids = pa.array([2**63, *range(1, ROWS)], pa.uint64())
    message = refusal(tmp_path, log(user_id=ids))
    assert "log.parquet: row 1: user_id 9223372036854775808 is over 9223372036854775807" in message
    assert "write the ids as int64 or text" in message


def test_a_feature_called_category_is_the_category(tmp_path: Path) -> None:
    items = catalogue(category=list("abcde"))
    message = refusal(tmp_path, log(), items, item_features=("category",))
    assert message == "--item-features category: pass it as --category category"


def test_a_split_without_a_test_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, log(), test_from="999")
    assert message.startswith("no interaction is held out to test on (test: from 999 on)")
    assert message.endswith("give more data or hold out more")


def test_a_part_without_a_column_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table(log()), tmp_path / "a.parquet")
    rows = log()
    del rows["time"]
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: column 'time' is missing") as error:
        prepare(ParquetLog(interactions=tmp_path, out=tmp_path.parent / f"{tmp_path.name}.out"))
    assert "\n" not in str(error.value)


def test_an_error_of_any_kind_in_duckdb_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        duckdb.sql("SELECT 99999999999999999::BIGINT * 1000000").fetchall()

    monkeypatch.setattr("dat_rec.data.prepare.reject_bad_rows", fail)
    assert "Overflow in multiplication" in refusal(tmp_path, log())
