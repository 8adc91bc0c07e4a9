"""Audiences of items in a log without order: the users who had them, an example's own left out."""

from collections import defaultdict
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.audience import write_pairs
from dat_rec.data.schema import AUDIENCE, USER
from dat_rec.data.validate.validate import validate
from tests.data.prepare.test_history import log_without_order
from tests.data.sources.prepared import Prepared, digest, own, refused, write

FROM = {"test_from": "9"}


def test_an_audience_is_all_who_had_the_item_and_lacks_the_examples_user(tmp_path: Path) -> None:
    had: dict[int, set[int]] = defaultdict(set)
    for user, items in log_without_order(tmp_path).items():
        for item, times in items.items():
            if times:
                had[item].add(user)
    made = Prepared(own(tmp_path, **FROM))
    feature = made.schema.feature(AUDIENCE)
    users = made.schema.feature(USER)
    assert (feature.side, feature.table, feature.rows) == ("item", users.table, users.rows)
    assert feature.multi_valued
    for item, row in made.items.items():
        assert len(row[AUDIENCE]) == len(set(row[AUDIENCE]))
        assert set(row[AUDIENCE]) == had[item]
    for row in made.train:
        assert {*row[AUDIENCE]} == had[row["item_id"]] - {row["user_id"]}
    assert validate(tmp_path / "out") == []


def test_of_many_users_some_are_drawn_by_the_seed_whatever_the_threads(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    for number, seed in ((1, 0), (2, 0), (3, 1)):
        options = {"threads": min(number, 2), "seed": seed, "audience_length": 4}
        Prepared(own(tmp_path, out=tmp_path / f"{number}", **FROM, **options))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
    one, other = (
        pq.read_table(tmp_path / name / "items.parquet")[AUDIENCE].to_pylist() for name in "13"
    )
    assert {len(users) for users in one if users} == {4}
    assert one != other
    assert validate(tmp_path / "1") == []


@pytest.mark.parametrize("options", [{"audience_length": 0}, {"test_from": "7"}])
def test_without_it_and_in_a_log_with_order_there_is_none(
    tmp_path: Path, options: dict[str, object]
) -> None:
    log_without_order(tmp_path)
    if "test_from" in options:
        table = pq.read_table(tmp_path / "log.parquet")
        more = pa.table({"user_id": [3], "item_id": [7], "time": [5]}, schema=table.schema)
        pq.write_table(pa.concat_tables([table, more]), tmp_path / "log.parquet")
    made = Prepared(own(tmp_path, **{**FROM, **options}))
    assert AUDIENCE not in {feature.name for feature in made.schema.features}


def test_a_length_below_0_is_refused(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    refused(own(tmp_path, audience_length=-1, **FROM), "--audience-length -1: must be at least 0")


def test_a_wrong_audience_is_found(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    Prepared(own(tmp_path, **FROM))
    folder = tmp_path / "out"
    (folder / "sha256.json").unlink()
    path = folder / "examples" / "part-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[7][AUDIENCE].append(rows[7][USER])
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    (fault,) = validate(folder)
    assert "row 7: audience is another than in row item_index" in str(fault)
    assert "without the example's user" in str(fault)
    pq.write_table(table, path)

    path = folder / "items.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[2][AUDIENCE][0] = 0
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    assert any("row 2: audience holds 0" in str(fault) for fault in validate(folder))


def test_another_writers_feature_of_that_name_is_what_it_is(tmp_path: Path) -> None:
    log_without_order(tmp_path)
    Prepared(own(tmp_path, audience_length=0, **FROM))
    folder = tmp_path / "out"
    (folder / "sha256.json").unlink()
    (folder / "vocabularies" / "category.parquet").rename(folder / "vocabularies/audience.parquet")
    for path in (folder / "items.parquet", folder / "examples" / "part-00000.parquet"):
        table = pq.read_table(path)
        names = [AUDIENCE if name == "category" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    text = (folder / "schema.json").read_text()
    (folder / "schema.json").write_text(
        text.replace('"category"', '"audience"').replace(
            '"audience": "audience"', '"category": "audience"'
        )
    )
    assert validate(folder) == []


def test_pairs_that_do_not_fit_into_memory_are_spilled(tmp_path: Path) -> None:
    """A million took 200 bytes each in an aggregate that cannot spill."""
    rows = np.arange(1_000_000, dtype=np.int32)
    (tmp_path / "training" / "range=0").mkdir(parents=True)
    path = tmp_path / "training" / "range=0" / "0.parquet"
    write(path, user_row=rows * 7919 % 100_003, item_index=rows // 25)
    with duckdb.connect() as database:
        database.execute(f"SET temp_directory = '{tmp_path}/spill'; SET threads = 1")
        database.execute("SET memory_limit = '100MB'; SET preserve_insertion_order = false")
        write_pairs(database, tmp_path / "training", 0, tmp_path / "pairs.parquet")
    item = pq.read_table(tmp_path / "pairs.parquet")["item_index"].to_numpy()
    assert np.array_equal(item, rows // 25)
