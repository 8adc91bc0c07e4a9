"""``--split all``, and what a day without rows is told by: NoRowsError, and nothing else."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.errors import NoRowsError, UserError
from tests.daily.planted_days import write_day
from tests.data.sources.prepared import digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of days 1 to 5; 2 is new, 3 an empty file, 4 has no positives, 5 bad rows alone."""
    folder = tmp_path_factory.mktemp("log")
    for day in (1, 2, 4, 5):
        rows = [
            {
                "user_id": -1 if day == 5 else n % 7,
                "item_id": n * 7 % 9 + day,
                "time": day * 100 + n,
                "label": float(day != 4),
            }
            for n in range(60)
        ]
        write_day(folder, day, rows)
    empty = pq.read_table(folder / "log/day=1/part.parquet").slice(0, 0)
    (folder / "log/day=3").mkdir()
    pq.write_table(empty, folder / "log/day=3/part.parquet")
    prepare(options(folder, folder / "before", "1", split="none", after=None))
    pq.write_table(pa.table({"item_id": range(20)}), folder / "items.parquet")
    return folder


def options(folder: Path, out: Path, day: str, **changes: Any) -> ParquetLog:
    given = {"after": folder / "before", "label": "label", "split": "all"} | changes
    return ParquetLog(interactions=folder / "log", from_=day, to=day, out=out, **given)


@pytest.mark.parametrize("catalogue", [False, True])
@pytest.mark.parametrize("day", ["3", "4", "6"])
def test_a_day_without_rows(day: str, catalogue: bool, folder: Path, tmp_path: Path) -> None:
    more = {"items": folder / "items.parquet"} if catalogue else {}
    with pytest.raises(NoRowsError):
        prepare(options(folder, tmp_path / "out", day, **more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("day", "changes", "words"),
    [
        ("5", {}, "negative user_id"),
        ("2", {"interactions": Path("nowhere")}, "nowhere: no such file"),
        ("2", {"items": Path("empty.parquet")}, "item not in the catalogue"),
        ("2", {"after": None}, "no interaction is left to train on (test: all that is new): pass"),
        ("2", {"test_share": 0.2}, "--test-share has no meaning for --split all, which holds out"),
        ("2", {"test_from": "1"}, "--test-from needs --split time: it is all: leave one out"),
        ("2", {"split_group": "user_id"}, "--split-group user_id has no meaning for --split all"),
    ],
)
def test_what_is_wrong_is_no_day_without_rows(
    day: str,
    changes: dict[str, Any],
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"item_id": pa.array([], pa.int64())}), "empty.parquet")
    made = {"interactions": folder / "log", **changes}
    given = {"after": folder / "before", "label": "label", "split": "all"} | made
    with pytest.raises(UserError) as error:
        prepare(ParquetLog(from_=day, to=day, out=tmp_path / "out", **given))
    assert words in str(error.value)
    assert not isinstance(error.value, NoRowsError)


def test_split_all_is_a_test_from_the_first_new_moment_on(folder: Path, tmp_path: Path) -> None:
    found = prepare(options(folder, tmp_path / "all", "2"))
    other = {"split": "time", "test_from": "200"}
    prepare(options(folder, tmp_path / "from", "2", **other))
    assert (found.tests, found.examples) == (60, 0)
    one, two = (digest(tmp_path / name) for name in ("all", "from"))
    # What the split is called stands in schema.json, and its digest in sha256.json.
    differing = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    assert differing == {"schema.json", "sha256.json"}
