"""--from and --to: which partitions are read, and that no file of the others is opened."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dat_rec.commands.parse import parse
from dat_rec.data.sources import SOURCES
from dat_rec.data.sources.parquet_log import ParquetLog
from dat_rec.data.sources.parts import Parts
from dat_rec.errors import UserError
from tests.data.sources.prepared import Prepared

DAYS = [f"day=2026-11-{day:02}" for day in (1, 2, 3, 9, 10)]


def log(folder: Path, *names: str) -> Path:
    """A file that is no Parquet in each folder: the first one that is opened is refused."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "part-0.parquet").write_bytes(b"never opened")
    return folder


def whole(folder: Path, *names: str) -> None:
    for name in names:
        pq.write_table(pa.table({"v": [1]}), folder / name / "part-0.parquet")


def chosen(path: Path, first: str | None, last: str | None) -> list[str]:
    return [str(file.parent.relative_to(path)) for file in Parts(path, first, last).schemas]


def refusal(path: Path, first: str | None, last: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        Parts(path, first, last)
    assert "\n" not in str(error.value)
    return str(error.value)


HOURS = ["day=2026-11-01/hour=9", "day=2026-11-01/hour=10", "day=2026-11-02/hour=0"]
MONTHS = ["year=2025/month=9", "year=2025/month=12", "year=2026/month=1", "year=2026/month=2"]


@pytest.mark.parametrize(
    ("names", "first", "last", "left"),
    [
        (DAYS, "2026-11-02", "2026-11-09", DAYS[1:4]),
        (DAYS, "2026-11-02", None, DAYS[1:]),
        (DAYS, None, "2026-11-03", DAYS[:3]),
        (DAYS, "day=2026-11-03", "day=2026-11-03", DAYS[2:3]),
        (DAYS, "2026-11-04", "2026-11-30", DAYS[3:]),
        (["n=1", "n=2", "n=10", "n=-3"], "2", "10", ["n=10", "n=2"]),
        (["n=08", "n=09", "n=10"], "9", None, ["n=09", "n=10"]),
        (["shop=b", "shop=a", "shop=c"], "a", "b", ["shop=a", "shop=b"]),
        (["at=2026-11-01 13%3A00", "at=2026-11-02 00%3A00"], None, "2026-11-01",
         ["at=2026-11-01 13%3A00"]),
        (["at=2026-11-01 13%3A00", "at=2026-11-01 14%3A00"], "at=2026-11-01 14%3A00", None,
         ["at=2026-11-01 14%3A00"]),
        (MONTHS, "year=2025/month=10", "year=2026/month=1", MONTHS[1:3]),
        (MONTHS, "year=2026", None, MONTHS[2:]),
        (MONTHS, "month=2", "month=9", [MONTHS[0], MONTHS[3]]),
        (HOURS, "day=2026-11-01/hour=10", None, HOURS[1:]),
        ([*DAYS, "day=__HIVE_DEFAULT_PARTITION__"], "2026-11-10", None, DAYS[4:]),
    ],
)  # fmt: skip
def test_the_partitions_between_the_bounds_are_read_and_no_other_file_is_opened(
    names: list[str], first: str | None, last: str | None, left: list[str], tmp_path: Path
) -> None:
    whole(log(tmp_path, *names), *left)
    assert chosen(tmp_path, first, last) == sorted(left)


def test_the_partition_without_a_value_is_passed_over_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*DAYS, "day=__HIVE_DEFAULT_PARTITION__"]
    whole(log(tmp_path, *names), *DAYS)
    assert chosen(tmp_path, None, "2026-12-31") == DAYS
    said = "--to 2026-12-31: not read: 1 files of the partition without a value\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("names", "first", "words"),
    [
        (["a"], "1", "--from 1: LOG: no folder is called COLUMN=VALUE: leave it out"),
        (DAYS, "2026-13-01", "--from 2026-13-01: '2026-13-01' is no date, as the values of 'day'"),
        (DAYS, "20261101", "is no date, as the values of 'day' are, e.g. 2026-11-01: write one"),
        (["n=1"], "2026-11-01", "'2026-11-01' is no integer, as the values of 'n' are, e.g. 1"),
        (DAYS, "2027-01-01", "no partition lies within: they go from day=2026-11-01 to day=2026-"),
        (DAYS, "hour=1", "its partitions are of day: write e.g. --from day=VALUE"),
        (HOURS, "2026-11-01", "its partitions are of day, hour: write e.g. --from day=VALUE"),
        (["n=1", "n=01"], "1", "LOG/n=1/part-0.parquet: the folders n=01 and n=1 are one value"),
        ([*DAYS, "day=20261104"], "2026-11-01", "day=20261104 is no date, as day=2026-11-01 is"),
        ([*DAYS, "other"], "2026-11-01", "LOG/other/part-0.parquet: column 'day' is missing, and"),
    ],
)
def test_a_bound_that_chooses_nothing_clear_is_refused(
    names: list[str], first: str, words: str, tmp_path: Path
) -> None:
    assert words.replace("LOG", str(tmp_path)) in refusal(log(tmp_path, *names), first)


def test_bounds_that_are_the_wrong_way_round_leave_nothing(tmp_path: Path) -> None:
    message = refusal(log(tmp_path, *DAYS), "2026-11-03", "2026-11-02")
    assert message.startswith(f"--from 2026-11-03 --to 2026-11-02: {tmp_path}: no partition lies")


def test_a_span_of_a_log_is_trained_on_as_the_same_rows_alone(tmp_path: Path) -> None:
    """Through the command line: days 3 to 7 of nine, which is said in schema.json."""
    for day in range(1, 10):
        folder = tmp_path / "log" / f"day=2026-01-0{day}"
        folder.mkdir(parents=True)
        rows = {"user_id": [0, 1, 2] * 2, "item_id": [0, 1, 2, 3, day, day]}
        pq.write_table(pa.table(rows), folder / "part-0.parquet")
        if 3 <= day <= 7:
            (tmp_path / "some" / folder.name).mkdir(parents=True)
            pq.write_table(pa.table(rows), tmp_path / "some" / folder.name / "part-0.parquet")
    words = ["parquet", "--interactions", str(tmp_path / "log"), "--out", str(tmp_path / "a")]
    words += ["--time", "day", "--from", "2026-01-03", "--to", "2026-01-07"]
    one = Prepared(parse("prepare", SOURCES, words))
    other = Prepared(ParquetLog(interactions=tmp_path / "some", out=tmp_path / "b", time="day"))
    for part in ("train", "test"):
        assert one.triples(part) == other.triples(part)
    assert len(one.train) + len(one.test) == 5 * 6
    assert "partitions: from 2026-01-03 to 2026-01-07" in one.schema.notes
