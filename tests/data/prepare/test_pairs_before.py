"""Which of some pairs a dataset has, against sets of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.pairs_before import PairsBefore

USERS = 60


def write_parts(folder: Path, *, statistics: bool, kind: pa.DataType) -> list[set[tuple[int, int]]]:
    """Seen files of three days, in row groups of a few users; return the pairs of each."""
    numbers = np.random.default_rng(3)
    days = []
    for day in range(3):
        pairs = {(int(u), int(i)) for u, i in numbers.integers(0, (USERS, 40), (700, 2))}
        user, item = zip(*sorted(pairs), strict=True)
        columns = {"count": [1] * len(user), "user_row": user, "item_index": item}
        table = pa.table({name: pa.array(values, kind) for name, values in columns.items()})
        pq.write_table(
            table, folder / f"{day}.parquet", row_group_size=50, write_statistics=statistics
        )
        days.append(pairs)
    return days


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
def test_pairs_of_any_day_are_found_and_no_others(
    tmp_path: Path, statistics: bool, kind: pa.DataType
) -> None:
    days = write_parts(tmp_path, statistics=statistics, kind=kind)
    before = PairsBefore([tmp_path / f"{day}.parquet" for day in range(3)])
    for first, last, step in ((0, USERS, 1), (7, 12, 2), (55, 90, 3), (80, 90, 1), (5, 5, 1)):
        asked = [(user, item) for user in range(first, last) for item in range(0, 50, step)]
        user, item = np.array(asked, np.int32).reshape(-1, 2).T
        had = before.among(np.ascontiguousarray(user), np.ascontiguousarray(item))
        assert had.tolist() == [any(pair in pairs for pairs in days) for pair in asked]


def test_row_groups_of_other_users_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path, statistics=True, kind=pa.int32())
    before = PairsBefore([tmp_path / f"{day}.parquet" for day in range(3)])
    read: list[int] = []
    real = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, size: int, groups: list[int], *rest: object, **more: object):
        read.append(len(groups))
        return real(self, size, groups, *rest, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    before.among(np.full(1, 30, np.int32), np.full(1, 3, np.int32))
    # Of 600 pairs of 60 users, 50 in a group, a user's are in one or two.
    assert len(read) == 3
    assert max(read) <= 2
