"""Mean lengths by a file's metadata, beside lists that are counted one by one."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.columns import BadIds
from dat_rec.data.schema import Feature
from dat_rec.data.stream import list_lengths
from dat_rec.data.stream.list_lengths import mean_list_lengths
from dat_rec.errors import UserError

FEATURES = (
    Feature("user", "query", "user", 100),
    Feature("history", "query", "item", 50, multi_valued=True),
    Feature("tags", "query", "tag", 9, multi_valued=True),
)
ROWS = 60
PLAIN, NOT_NULL = pa.list_(pa.int32()), pa.list_(pa.field("element", pa.int32(), nullable=False))


def users(kind: pa.DataType = NOT_NULL, **changed: list[Any]) -> pa.Table:
    """Half of the histories are empty, and all tags of some row groups."""
    random = np.random.default_rng(0)
    lengths = random.integers(0, 7, ROWS) * random.integers(0, 2, ROWS)
    columns = {
        "user": [int(row) for row in range(ROWS)],
        "history": [random.integers(0, 50, length).tolist() for length in lengths],
        "tags": [[1] * (row % 3) if row > 20 else [] for row in range(ROWS)],
    }
    kinds = {"user": pa.int32(), "history": kind, "tags": kind}
    return pa.table({k: pa.array(v, kinds[k]) for k, v in (columns | changed).items()})


def counted(table: pa.Table) -> dict[str, float]:
    names = [one.name for one in FEATURES if one.multi_valued]
    return {name: sum(map(len, table[name].to_pylist())) / len(table) for name in names}


def lengths(path: Path, policy: Any = "refuse") -> dict[str, float]:
    return mean_list_lengths(path, FEATURES, ROWS, BadIds(policy, "mend it"))


@pytest.mark.parametrize("kind", [PLAIN, NOT_NULL])
@pytest.mark.parametrize("group", [7, 16, ROWS])
def test_the_metadata_of_pyarrow_tell_the_mean_and_nothing_is_read(
    kind: pa.DataType, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = users(kind)
    pq.write_table(table, tmp_path / "users.parquet", row_group_size=group)
    monkeypatch.delattr(list_lengths, "_read")
    assert lengths(tmp_path / "users.parquet") == counted(table)


def test_the_metadata_of_duckdb_tell_it(tmp_path: Path) -> None:
    table, path = users(PLAIN), tmp_path / "users.parquet"
    with duckdb.connect() as connection:
        connection.from_arrow(table).write_parquet(str(path))
    assert lengths(path) == counted(table)


def test_without_statistics_the_lists_are_counted(tmp_path: Path) -> None:
    table, path = users(), tmp_path / "users.parquet"
    pq.write_table(table, path, row_group_size=16, write_statistics=False)
    assert lengths(path) == counted(table)


def test_an_id_outside_its_table_is_refused_or_counts_as_another(tmp_path: Path) -> None:
    histories = users()["history"].to_pylist()
    histories[40] = [3, 50]
    table, path = users(history=histories), tmp_path / "users.parquet"
    pq.write_table(table, path, row_group_size=16)
    with pytest.raises(UserError, match=r"row group 2.*'history', row 8 .*holds id 50, .*mend it"):
        lengths(path)
    assert lengths(path, "unknown") == counted(table)


def test_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(users().slice(1), tmp_path / "users.parquet")
    with pytest.raises(UserError, match=r"users.parquet: 59 rows, schema.json says 60: prepare"):
        lengths(tmp_path / "users.parquet")


def test_a_column_that_is_missing_or_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(users().drop_columns(["tags"]), path)
    with pytest.raises(UserError, match="'tags' is missing"):
        lengths(path)
    pq.write_table(users().set_column(2, "tags", pa.array(range(ROWS))), path)
    with pytest.raises(UserError, match="'tags' is int64, not a list"):
        lengths(path)
