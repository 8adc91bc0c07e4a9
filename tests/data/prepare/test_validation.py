"""What is held out for validation: chosen as the test is, and unknown to what is trained on."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import (
    Prepared,
    Triple,
    by_time,
    digest,
    last_of_each_user,
    own,
    refused,
)
from tests.data.sources.prepared import write as write_columns

ROWS: list[Triple] = [(row * row % 37, row % 23, 1000 - row // 3) for row in range(400)]


def write(path: Path, rows: list[Triple]) -> None:
    users, items, times = zip(*rows, strict=True)
    write_columns(path, user_id=users, item_id=items, time=times)


def prepared(folder: Path, rows: list[Triple] = ROWS, **changes: Any) -> Prepared:
    write(folder / "log.parquet", rows)
    made = Prepared(own(folder, overwrite=True, **changes))
    assert validate(folder / "out") == []
    return made


def spans(made: Prepared) -> tuple[list[Triple], list[Triple], list[Triple]]:
    return made.triples("train"), made.triples("validation"), made.triples("test")


def test_without_the_options_there_is_no_validation(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    assert made.schema.validation == 0
    assert not (tmp_path / "out" / "validation.parquet").exists()
    assert "validation" not in (tmp_path / "out" / "schema.json").read_text()


def test_training_is_what_it_would_be_of_a_log_without_the_validation(tmp_path: Path) -> None:
    """Counts, histories, pairs and examples, to the last byte; users and items of the validation
    stand behind the trained ones."""
    rows = [*ROWS, (50, 3, 905), (3, 40, 905), (51, 41, 906)]
    made = prepared(tmp_path, rows, test_from="980", validation_from="900")
    train, validation, test = spans(made)
    assert validation == by_time(row for row in rows if 900 <= row[2] < 980)
    assert test == by_time(row for row in rows if row[2] >= 980)
    assert made.schema.validation == len(validation)
    assert {50, 51} & {row[0] for row in train} == set()
    assert not made.users[50]["trained"]
    assert made.items[40]["train_count"] == 0
    (tmp_path / "without").mkdir()
    without = prepared(tmp_path / "without", train + test, test_from="980")
    found, wanted = (digest(folder / "out") for folder in (tmp_path, tmp_path / "without"))
    for name in ("examples/part-00000.parquet", "seen.parquet"):
        assert found[name] == wanted[name]
    for user, row in without.users.items():
        assert made.users[user]["history"] == row["history"]


def test_a_share_by_time_is_the_last_of_what_the_test_leaves(tmp_path: Path) -> None:
    train, validation, test = spans(prepared(tmp_path, validation_share=0.25))
    left = sorted(train + validation, key=lambda row: row[2])
    cut = left[-(len(left) // 4)][2]
    assert validation == by_time(row for row in left if row[2] >= cut)
    assert test == by_time(row for row in ROWS if row not in train and row not in validation)
    assert len(validation) == pytest.approx(len(left) / 4, abs=3)


def test_a_random_share_is_that_of_the_hashes(tmp_path: Path) -> None:
    made = prepared(tmp_path, split="random", validation_share=0.2, seed=3)
    train, validation, test = spans(made)

    def number(row: Triple) -> int:
        text = "|".join(str(part) for part in (3, *row))
        return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little")

    left = sorted((row for row in ROWS if row not in test), key=number)
    cut = number(left[-len(left) // 5])
    assert validation == by_time(row for row in left if number(row) >= cut)
    assert train == by_time(row for row in left if number(row) < cut)
    assert "validation: a random 20 % of the others (seed 3)" in made.schema.split
    assert f"{len(validation)} of {len(left)} are held out" in made.schema.split


def test_beside_each_users_last_the_last_but_one_validates(tmp_path: Path) -> None:
    made = prepared(tmp_path, split="last", validation_share=1.0)
    left, test = last_of_each_user(ROWS)
    # In the order of the rows, which decides between equal times.
    in_order = [row for row in ROWS if row in set(left)]
    train, validation = last_of_each_user(in_order)
    assert spans(made) == (train, validation, test)


def test_the_share_of_users_is_a_random_one(tmp_path: Path) -> None:
    chosen = []
    for seed in (0, 1):
        made = prepared(tmp_path, split="last", validation_share=0.5, seed=seed)
        users = {row["user_id"] for row in made.validation}
        all_users = {row["user_id"] for row in made.test}
        assert len(users) == len(made.validation)
        assert 0.2 * len(all_users) < len(users) < 0.8 * len(all_users)
        assert f"of a random 50 % of users (seed {seed})" in made.schema.split
        chosen.append(users)
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation_share": 0.1, "validation_from": "900"}, "both choose the validation"),
        ({"validation_share": 0.0}, "--validation-share 0.0: must lie between 0 and 1"),
        ({"validation_share": 1.0}, "--validation-share 1.0: must lie between 0 and 1"),
        ({"validation_share": 1.1, "split": "last"}, "is a share of the users here"),
        ({"validation_from": "x"}, "--validation-from x: is no integer, as the times are"),
        ({"validation_from": "1"}, "no interaction is left to train on (validation: from 1 on"),
        ({"validation_from": "5000"}, "no interaction is held out for validation (validation: f"),
    ],
)
def test_options_that_hold_out_nothing_or_all(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write(tmp_path / "log.parquet", ROWS)
    refused(own(tmp_path, **changes), words)


def test_a_log_without_times_has_no_start_of_validation(tmp_path: Path) -> None:
    users, items, _ = zip(*ROWS, strict=True)
    write_columns(tmp_path / "log.parquet", user_id=users, item_id=items)
    words = "--validation-from 900: the log has no times: pass --validation-share"
    refused(own(tmp_path, split="last", validation_from="900"), words)


def test_what_stands_in_two_spans_is_a_leak(tmp_path: Path) -> None:
    prepared(tmp_path, validation_share=0.25)
    folder = tmp_path / "out"
    (folder / "sha256.json").unlink()
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in ("test", "validation")}
    pq.write_table(tables["test"].slice(0, 1), folder / "validation.parquet")
    schema = folder / "schema.json"
    rows = tables["validation"].num_rows
    schema.write_text(schema.read_text().replace(f'"validation": {rows}', '"validation": 1'))
    faults = [str(fault) for fault in validate(folder)]
    assert faults == [
        f"{folder / 'test.parquet'}: row 0: the interaction is one of the validation too: the test "
        "leaks into the validation: hold out interactions of one user, item and time together, or "
        "add their sequence"
    ]
    example = pq.read_table(folder / "examples").slice(0, 1).to_pylist()[0]
    leak = {"user_row": example["user"] - 1, "item_index": example["item_index"]}
    table = (
        tables["test"]
        .slice(0, 1)
        .from_pylist([{**leak, "time": example["time"]}], tables["test"].schema)
    )
    pq.write_table(table, folder / "validation.parquet")
    assert [str(fault) for fault in validate(folder)] == [
        f"{folder / 'validation.parquet'}: row 0: the interaction is trained on too: the "
        "validation leaks into training: hold out interactions of one user, item and time "
        "together, or add their sequence"
    ]


def test_a_file_that_the_schema_does_not_know_is_named(tmp_path: Path) -> None:
    prepared(tmp_path)
    folder = tmp_path / "out"
    (folder / "sha256.json").unlink()
    pq.write_table(pq.read_table(folder / "test.parquet"), folder / "validation.parquet")
    (fault,) = validate(folder)
    assert "validation.parquet: schema.json knows of no such file" in str(fault)
