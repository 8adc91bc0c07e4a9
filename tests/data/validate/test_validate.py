"""Datasets broken in one way each, and what ``validate`` says; good ones, prepared or written."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.cli import run_command
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.validate.validate import validate
from dat_rec.errors import UserError
from tests.data.prepare.test_pipeline import options, random_log, write_log
from tests.data.sources.prepared import own, write
from tests.dense_log import prepare_dense
from tests.end_to_end.cli import dat_rec, done

Columns = dict[str, list[Any]]
EXAMPLES = "examples/part-00001.parquet"
PAGE = Path(__file__).parents[3] / "docs" / "dataset.md"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of examples, with features of every kind, repeats and equal times."""
    folder = tmp_path_factory.mktemp("log")
    write_log(random_log(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dat_rec.data.prepare.write.ROW_GROUP", 64)
        patch.setattr("dat_rec.data.prepare.write.FILE_ROWS", 192)
        prepare(options(folder))
    return folder / "out"


@pytest.fixture
def broken(good: Path, tmp_path: Path) -> Path:
    """A copy to break, without the digests, which would find it out at once."""
    shutil.copytree(good, tmp_path / "data")
    (tmp_path / "data" / "sha256.json").unlink()
    return tmp_path / "data"


def edit(path: Path, change: Callable[[Columns], Any]) -> None:
    """Write the file anew with other values; columns keep their types as far as they can."""
    table = pq.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    change(columns)
    types = {field.name: field.type for field in table.schema}
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values, types[name])
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            arrays[name] = pa.array(values)
    pq.write_table(pa.table(arrays), path)


def set_value(name: str, row: int, value: Any) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[name][row] = value(columns[name][row]) if callable(value) else value

    return change


def swap(row: int, other: int) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for values in columns.values():
            values[row], values[other] = values[other], values[row]

    return change


def copy_row(row: int, other: int, *names: str) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        for name in names:
            columns[name][other] = columns[name][row]

    return change


def first_with(columns: Columns, name: str, wanted: Callable[[Any], bool]) -> int:
    return next(row for row, value in enumerate(columns[name]) if wanted(value))


def reverse_a_history(columns: Columns) -> None:
    row = first_with(columns, "history", lambda h: len(h) > 2 and h[0] != h[-1])
    for name in ("history", "history_category"):
        columns[name][row].reverse()


def swap_in_a_history(columns: Columns) -> None:
    """Neither the first nor the last item."""
    row = first_with(columns, "history", lambda h: len(h) == 5 and h[1] != h[2])
    for name in ("history", "history_category"):
        values = columns[name][row]
        values[1], values[2] = values[2], values[1]


def forget_the_last(columns: Columns) -> None:
    row = first_with(columns, "history", lambda h: 2 < len(h) < 5)
    for name in ("history", "history_category"):
        columns[name][row].pop()


def look_ahead(columns: Columns) -> None:
    """The last item of a history becomes another one, as if it were of the time after."""
    row = first_with(columns, "history", lambda h: len(h) > 1 and h[0] != h[-1])
    for name in ("history", "history_category"):
        columns[name][row][-1] = columns[name][row][0]


Break = tuple[str, Callable[[Columns], Any], str]
DEPT = "vocabularies/dept.parquet"
TOGETHER: dict[str, list[Break]] = {
    "rows": [
        ("users.parquet", set_value("user_id", 3, lambda i: i + 1), "row 4: user_id '4' stands in"),
        ("users.parquet", set_value("user_id", 6, None), "row 6: column 'user_id' is null"),
        ("users.parquet", set_value("user", 2, 7), "row 2: user must be the row's number + 1"),
        ("users.parquet", set_value("age", 5, 99), "row 5: column 'age' holds an id outside its t"),
        ("users.parquet", set_value("history", -1, [1]), "row 59: an untrained user has a history"),
        ("items.parquet", set_value("item_id", 3, "i00"), "item_id 'i00' stands in row"),
        ("items.parquet", set_value("dept", 2, -1), "row 2: column 'dept' holds an id outside its"),
        ("items.parquet", set_value("item", 4, 1), "row 4: item must be the row's number + 1"),
        ("seen.parquet", set_value("count", 0, 0), "row 0: count is below 1 (0)"),
        ("seen.parquet", swap(3, 7), "row 4: the rows are not sorted by user_row and item_index"),
        ("seen.parquet", set_value("user_row", -1, 40), "user_row is none of the 40 trained users"),
        ("test.parquet", set_value("item_index", 1, 40), "row 1: item_index is none of the 40 it"),
        ("test.parquet", swap(0, -1), "row 1: the rows are not sorted by time"),
        (EXAMPLES, set_value("user", 4, 0), "row 4: user is 0"),
        (EXAMPLES, set_value("item_index", 5, 35), "row 5: item_index is none of the 29 trained"),
        (EXAMPLES, set_value("price", 6, lambda p: p + 1), "price is another than in row item_ind"),
        (EXAMPLES, set_value("tags", 0, [99]), "row 0: column 'tags' holds an id outside its tab"),
        (EXAMPLES, set_value("history", 2, [1] * 6), "row 2: history is longer than 5 items (6)"),
        (
            EXAMPLES,
            set_value("history_category", 7, [0] * 6),
            "history_category has another length",
        ),
        (DEPT, set_value("value", 1, None), "row 1: value must be null for"),
        (DEPT, set_value("index", 2, 9), "row 2: index lies outside the table of 4 rows (9)"),
    ],
    "more rows": [
        ("users.parquet", swap(0, -1), "row 0: trained must be true for the first 40 users alone"),
        ("items.parquet", swap(0, -1), "row 0: train_count must be above 0 for the first 29 items"),
        ("seen.parquet", copy_row(3, 4, "user_row", "item_index"), "a pair stands there twice"),
        ("test.parquet", set_value("time", 0, None), "row 0: column 'time' is null"),
        (
            EXAMPLES,
            set_value("tags", 0, [None]),
            "row 0: column 'tags' is null, or a list with nul",
        ),
        (
            EXAMPLES,
            set_value("history_category", 1, lambda h: [1 + n % 3 for n in h]),
            "another cat",
        ),
        (
            "users.parquet",
            set_value("history_category", 1, lambda h: [1 + n % 3 for n in h]),
            "row 1: history_category holds another cat",
        ),
        (DEPT, set_value("value", 1, "toys"), "value 'toys' stands in row"),
        (DEPT, set_value("index", 1, 3), "index '3' stands in row 1 too"),
    ],
    "columns": [
        ("users.parquet", lambda c: c.pop("age"), "column 'age' is missing"),
        ("test.parquet", lambda c: [v.pop() for v in c.values()], "rows, and schema.json says"),
        (
            "items.parquet",
            lambda c: c.update(item=["1"] * 40),
            "column 'item' is string, not an int",
        ),
        (
            EXAMPLES,
            lambda c: c.update(time=["x"] * 192),
            "column 'time' is string, not a 64-bit in",
        ),
        (EXAMPLES, lambda c: c.update(tags=[1] * 192), "column 'tags' is int64, not a list of int"),
    ],
    "counts": [
        ("items.parquet", set_value("train_count", 1, lambda n: n + 1), "row 1: train_count is"),
        (
            "seen.parquet",
            set_value("count", 0, lambda n: n + 1),
            "training interactions are of the pair",
        ),
        (EXAMPLES, set_value("repeat", 3, lambda r: not r), "row 3: repeat must be true where"),
    ],
    "short history": [(EXAMPLES, forget_the_last, "history must be the user's last 5 training")],
    "reversed history": [(EXAMPLES, reverse_a_history, "history must be the user's last 5 train")],
    "history in disorder": [(EXAMPLES, swap_in_a_history, "history must be the user's last 5 tr")],
    "history of other items": [(EXAMPLES, look_ahead, "history must be the user's last 5 tra")],
    "history of a user": [("users.parquet", look_ahead, "history must be the user's last 5 train")],
}


@pytest.mark.parametrize("which", TOGETHER)
def test_whatever_is_broken_is_named(which: str, broken: Path) -> None:
    for file, change, _ in TOGETHER[which]:
        edit(broken / file, change)
    lines = [str(fault) for fault in validate(broken)]
    assert not any("\n" in line for line in lines)
    for file, _, said in TOGETHER[which]:
        path = str(broken / file)
        assert any(line.startswith(path) and said in line for line in lines), (file, said, lines)
    if len(TOGETHER[which]) == 1:
        assert len(lines) == 1, lines


DENSE: list[Break] = [
    (
        "items.parquet",
        set_value("text", 4, [1.0] * 4),
        "row 4: column 'text' has another number of",
    ),
    (
        "items.parquet",
        set_value("text", 33, [1.0] * 4 + [float("nan")]),
        "row 33: column 'text' hold",
    ),
    (
        "items.parquet",
        set_value("price", 7, float("inf")),
        "row 7: column 'price' is not finite (in",
    ),
    (
        "users.parquet",
        set_value("face", 5, [1.0, None, 2.0]),
        "row 5: column 'face' holds what is n",
    ),
    ("users.parquet", set_value("since", 6, -float("inf")), "row 6: column 'since' is not finite"),
]
DENSE_KINDS: list[Break] = [
    ("items.parquet", lambda columns: columns.pop("text"), "column 'text' is missing"),
    (
        "items.parquet",
        lambda c: c.update(price=["1"] * len(c["price"])),
        "'price' is string, not a n",
    ),
    (
        "users.parquet",
        lambda c: c.update(face=c["since"]),
        "column 'face' is double, not a list of",
    ),
]


@pytest.mark.parametrize("breaks", [DENSE, DENSE_KINDS], ids=["values", "kinds"])
def test_whatever_is_broken_of_dense_features_is_named(breaks: list[Break], tmp_path: Path) -> None:
    folder = prepare_dense(tmp_path).folder
    (folder / "sha256.json").unlink()  # type: ignore[union-attr]
    assert validate(folder) == []  # type: ignore[arg-type]
    for file, change, _ in breaks:
        edit(folder / file, change)  # type: ignore[arg-type]
    lines = [str(fault) for fault in validate(folder)]  # type: ignore[arg-type]
    assert len(lines) == len(breaks), lines
    for file, _, said in breaks:
        path = str(folder / file)
        assert any(line.startswith(path) and said in line for line in lines), (file, said, lines)


def test_a_value_that_the_files_statistics_deny_is_found(broken: Path) -> None:
    """As a bit that was flipped leaves it: the footer says that all counts are 1 to 7."""
    path = broken / "seen.parquet"
    table = pq.read_table(path)
    counts = pa.array([7] * table.num_rows, pa.int32())
    table = table.set_column(table.column_names.index("count"), "count", counts)
    pq.write_table(table, path, use_dictionary=False, compression="none")
    content = bytearray(path.read_bytes())
    run = content.find((7).to_bytes(4, "little") * table.num_rows)
    content[run + 4 * 5 : run + 4 * 6] = bytes(4)
    path.write_bytes(content)
    assert f"{path}: row 5: count is below 1 (0)" in str(validate(broken)[0])


def test_good_datasets_have_no_fault(good: Path, planted: Dataset) -> None:
    assert validate(good) == []
    assert validate(planted.folder, memory_limit="500MB", threads=1) == []


def test_a_sequence_orders_what_is_of_one_time(tmp_path: Path) -> None:
    """Histories and repeats by time alone are then wrong, and are named."""
    write_log(random_log(), tmp_path)
    log = pq.read_table(tmp_path / "log.parquet")
    offset = pa.array([row * 7 % 601 for row in range(log.num_rows)])
    pq.write_table(log.append_column("offset", offset), tmp_path / "log.parquet")
    prepare(options(tmp_path, sequence="offset"))
    assert validate(tmp_path / "out") == []
    assert pq.read_schema(tmp_path / "out" / "test.parquet").names[-1] == "sequence"
    (tmp_path / "out" / "sha256.json").unlink()
    path = tmp_path / "out" / "examples" / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["sequence"]), path)
    said = [str(fault) for fault in validate(tmp_path / "out")]
    assert len(said) == 2
    assert "repeat must be true where" in said[0]
    assert "history must be the user's last" in said[1]


def test_interactions_that_are_equal_in_all_are_no_fault(tmp_path: Path) -> None:
    """Half of 600 are of one user, with 30 items at 50 times."""
    numbers = np.random.default_rng(0)
    user = np.where(numbers.random(600) < 0.5, 0, numbers.integers(0, 20, 600)).tolist()
    item, time = (numbers.integers(0, most, 600).tolist() for most in (30, 50))
    write(tmp_path / "log.parquet", user_id=user, item_id=item, time=time)
    prepare(own(tmp_path, history_length=5, split="last"))
    assert validate(tmp_path / "out") == []


def only(folder: Path) -> str:
    faults = validate(folder)
    assert len(faults) == 1, faults
    return str(faults[0])


def test_examples_in_the_order_of_the_log_are_not_shuffled(
    planted: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(planted.folder, tmp_path / "data")
    (tmp_path / "data" / "sha256.json").unlink()
    path = tmp_path / "data" / "examples" / "part-00000.parquet"
    for column in ("time", "user"):
        pq.write_table(pq.read_table(path).sort_by(column), path)
        assert f"not shuffled (row number and {column} are correlated" in only(tmp_path / "data")


def test_a_test_interaction_that_is_trained_on_is_a_leak(broken: Path) -> None:
    example = pq.read_table(broken / EXAMPLES).to_pylist()[0]

    def change(columns: Columns) -> None:
        columns["user_row"][0] = example["user"] - 1
        columns["item_index"][0], columns["time"][0] = example["item_index"], example["time"]

    edit(broken / "test.parquet", change)
    said = only(broken)
    assert said.startswith(f"{broken / 'test.parquet'}: row 0: the interaction is trained on too")


def test_a_user_without_examples_is_not_trained(broken: Path) -> None:
    for path in (broken / "examples").iterdir():
        edit(path, lambda c: c.update(user=[1 if user == 2 else user for user in c["user"]]))
    what = f"{broken / 'users.parquet'}: row 1: the user is trained and has no training interaction"
    assert any(str(fault).startswith(what) for fault in validate(broken))


def test_files_too_many_or_damaged(broken: Path) -> None:
    (broken / EXAMPLES).rename(broken / "examples" / "other.parquet")
    lines = [str(fault) for fault in validate(broken)]
    assert f"{broken / EXAMPLES}: the file is missing: write it" in lines[0]
    assert "other.parquet: schema.json knows of no such file" in lines[1]
    (broken / "examples" / "other.parquet").rename(broken / EXAMPLES)
    (broken / "seen.parquet").write_bytes((broken / "seen.parquet").read_bytes()[:-9])
    content = bytearray((broken / "items.parquet").read_bytes())
    content[len(content) // 4 : len(content) // 3] = bytes(len(content) // 3 - len(content) // 4)
    (broken / "items.parquet").write_bytes(content)
    lines = [str(fault) for fault in validate(broken)]
    assert f"{broken / 'seen.parquet'}: cannot be read as Parquet (" in lines[0]
    assert any(f"{broken / 'items.parquet'}: cannot be read (" in line for line in lines)


def test_digests_name_what_was_changed_added_or_lost(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(good, folder)
    content = bytearray((folder / "items.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    (folder / "items.parquet").write_bytes(content)
    lines = [str(fault) for fault in validate(folder)]
    assert f"{folder / 'items.parquet'}: SHA-256 differs from sha256.json" in lines[0]
    shutil.copy(good / "items.parquet", folder)
    (folder / "more.txt").touch()
    assert "more.txt: sha256.json does not name it" in only(folder)
    (folder / "more.txt").rename(folder / ".more")
    assert validate(folder) == []
    digests = json.loads((folder / "sha256.json").read_text())
    (folder / "sha256.json").write_text(json.dumps({**digests, "lost": "0"}))
    assert "lost: sha256.json names it, and it is missing" in only(folder)
    (folder / "sha256.json").write_text("[")
    assert "sha256.json: the digests is not valid JSON" in only(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 7}, "schema version 7"),
        ({"trained_items": 41}, "trained_items is 41, items 40"),
        ({"users": "many"}, "users is 'many'"),
        ({"category": "price"}, ""),
        ({"history_length": 2}, "history is longer than 2 items"),
        ({"tests": 5}, "rows, and schema.json says 5"),
    ],
)
def test_a_schema_that_is_wrong(change: dict[str, Any], said: str, broken: Path) -> None:
    schema = json.loads((broken / "schema.json").read_text())
    (broken / "schema.json").write_text(json.dumps({**schema, **change}))
    assert said in str(validate(broken)[0])


def test_what_is_no_dataset_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} is not a prepared dataset")):
        validate(tmp_path)


def test_the_command_prints_faults_and_ends_with_2(
    good: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("validate", [str(good)]) is None
    assert capsys.readouterr().out.endswith("60 users, 40 items: no fault\n")
    edit(broken / "users.parquet", set_value("user_id", 3, None))
    assert run_command("validate", [str(broken)]) == 2
    line = f"{broken / 'users.parquet'}: row 3: column 'user_id' is null: write the file anew\n"
    assert capsys.readouterr().out == line
    assert run_command("validate", [str(broken), "--json"]) == 2
    fault = json.loads(capsys.readouterr().out)[0]
    assert ": ".join(fault[key] for key in ("where", "what", "cure")) + "\n" == line


def test_a_dataset_written_from_the_page_alone_is_good_and_trains(tmp_path: Path) -> None:
    """The page's own writer, which imports pyarrow and the standard library."""
    program = PAGE.read_text().split("```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert validate(tmp_path / "dataset") == []
    data = ("--data", tmp_path / "dataset", "--out", tmp_path / "run")
    said = done(dat_rec("train", *data, "--epochs", 1, "--batch-size", 1024))
    assert "1 steps" in said
