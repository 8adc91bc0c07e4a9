"""Histories of a log without order: the user's other items."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.validate.validate import validate
from tests.data.sources.prepared import Prepared, digest, own, write


def log_without_order(folder: Path, *, rows: int = 900, times: int = 1) -> dict[int, Counter[int]]:
    """Each user's interactions have one time, of ``times``; the next ten at time 9 are the test.

    Returns:
        How often each user has each item in training.
    """
    numbers = np.random.default_rng(0)
    user, item = numbers.integers(0, 40, rows), numbers.integers(0, 30, rows)
    time = np.where(np.arange(rows) < rows - 10, user % times, 9)
    write(folder / "log.parquet", user_id=user, item_id=item, time=time)
    taken: dict[int, Counter[int]] = defaultdict(Counter)
    for u, i, t in zip(user.tolist(), item.tolist(), time.tolist(), strict=True):
        taken[u][i] += int(t < 9)
    return taken


@pytest.mark.parametrize("times", [1, 3])
def test_a_history_holds_all_other_items_of_the_user(tmp_path: Path, times: int) -> None:
    taken = log_without_order(tmp_path, times=times)
    made = Prepared(own(tmp_path, test_from="9", history_length=50))
    assert made.schema.histories == "others"
    assert len(made.train) == 890
    for row in made.train:
        others = taken[row["user_id"]].copy()
        del others[row["item_id"]]
        assert Counter(row["history"]) == +others
        assert not row["repeat"]
    for user, row in made.users.items():
        assert Counter(row["history"]) == +taken[user]
    assert any("in no order" in note for note in made.schema.notes)
    assert validate(tmp_path / "out") == []


def test_of_many_other_items_each_example_gets_some_of_its_own(tmp_path: Path) -> None:
    taken = log_without_order(tmp_path)
    made = Prepared(own(tmp_path, test_from="9", history_length=4))
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for row in made.train:
        user, item = row["user_id"], row["item_id"]
        assert len(row["history"]) == 4
        assert item not in row["history"]
        assert not Counter(row["history"]) - taken[user]
        found[user].update(row["history"])
    # None of the user's items is left out for ever.
    assert all(set(found[user]) == set(+taken[user]) for user in taken)
    assert validate(tmp_path / "out") == []


def test_the_seed_decides_which_whatever_the_threads(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    options = {"test_from": "9", "history_length": 4}
    made = [Prepared(own(tmp_path, out=tmp_path / f"{n}", threads=n, **options)) for n in (1, 2)]
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
    other = Prepared(own(tmp_path, seed=1, **options))
    last = [one.users[0]["history"] for one in (*made, other)]
    assert last[0] == last[1] != last[2]


def test_one_user_with_two_times_gives_the_log_an_order(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    table = pq.read_table(tmp_path / "log.parquet")
    more = {"user_id": [3], "item_id": [7], "time": [5]}
    pq.write_table(
        pa.concat_tables([table, pa.table(more, schema=table.schema)]), tmp_path / "log.parquet"
    )
    made = Prepared(own(tmp_path, test_from="9"))
    assert made.schema.histories == "earlier"
    assert all(not row["history"] for row in made.train if row["time"] < 5)


def test_a_wrong_history_is_found(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    Prepared(own(tmp_path, test_from="9", history_length=4))
    path = tmp_path / "out" / "examples" / "part-00000.parquet"
    (tmp_path / "out" / "sha256.json").unlink()
    table = pq.read_table(path)
    for wrong in (lambda row: row["history"][:-1], lambda row: [*row["history"][:-1], row["item"]]):
        rows = table.to_pylist()
        rows[7]["history"] = wrong(rows[7])
        category = {i + 1: c for i, c in zip(*_categories(tmp_path), strict=True)}
        rows[7]["history_category"] = [category[n] for n in rows[7]["history"]]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
        (fault,) = validate(tmp_path / "out")
        assert "row 7: in a log without order a history must hold" in str(fault)


def _categories(folder: Path) -> tuple[range, list[int]]:
    items = pq.read_table(folder / "out" / "items.parquet")
    return range(items.num_rows), items["category"].to_pylist()
