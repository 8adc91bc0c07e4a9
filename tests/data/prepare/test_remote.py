"""``prepare`` from a store into a store gives the dataset that it gives on a disk."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import S3FileSystem

from dat_rec.cli import run_command
from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.prepare.remote import _fits, address_in, path_or_address
from dat_rec.data.sources import ParquetLog, Synthetic
from dat_rec.errors import UserError
from dat_rec.storage.address import location
from dat_rec.storage.snapshot import local_copy
from tests.object_store import ObjectStore


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are made."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write_log(folder: Path) -> Path:
    """A log of two partitions."""
    for day in (1, 2):
        (folder / f"day={day}").mkdir(parents=True)
        rows = range(day * 1000, day * 1000 + 200)
        columns = {
            "user_id": [n % 20 for n in rows],
            "item_id": [n * 7 % 31 for n in rows],
            "time": rows,
        }
        pq.write_table(pa.table(columns), folder / f"day={day}" / "part.parquet")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_log_and_a_dataset_in_a_store(
    object_store: ObjectStore, tmp_path: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log")
    object_store.put_folder(log, "remote/log")
    # pyarrow, as Spark does, leaves empty objects that stand for folders.
    keys = {"access_key": "all", "secret_key": "all-secret"}
    arrow = S3FileSystem(**keys, endpoint_override=object_store.endpoint, region="us-east-1")
    arrow.create_dir("open/remote/log/day=1", recursive=True)
    prepare(ParquetLog(interactions=log, out=tmp_path / "data"))
    out = Path("s3://open/remote/data")
    source = ParquetLog(interactions=Path("s3://open/remote/log"), out=out)
    prepare(source)
    found = location("s3://open/remote/data")
    with local_copy(found, "schema.json") as copy:
        assert everything(copy) == everything(tmp_path / "data")
    assert Dataset.open(found).row_digest() == Dataset.open(tmp_path / "data").row_digest()
    assert list(work.iterdir()) == []
    said = capsys.readouterr().err
    assert "s3://open/remote/log: copying 2 objects, 0 MiB, to" in said
    assert "s3://open/remote/data: published" in said
    assert "s3://open/remote/data: 360 examples" in said
    with pytest.raises(UserError, match=r"^s3://open/remote/data is already there: .*--overwrite"):
        prepare(source)


def test_a_day_that_follows_a_dataset_in_a_store(
    object_store: ObjectStore, tmp_path: Path, work: Path
) -> None:
    log = write_log(tmp_path / "log")
    days = {"from_": "2", "to": "2"}
    before = ParquetLog(interactions=log, out=tmp_path / "before", to="1", split="none")
    prepare(before)
    prepare(ParquetLog(interactions=log, out=Path("s3://open/after/1"), to="1", split="none"))
    plain = ParquetLog(interactions=log, out=tmp_path / "data", after=before.out, **days)
    prepare(plain)
    after = Path("s3://open/after/1")
    prepare(ParquetLog(interactions=log, out=Path("s3://open/after/2"), after=after, **days))
    with local_copy(location("s3://open/after/2"), "schema.json") as copy:
        assert everything(copy) == everything(tmp_path / "data")
    assert list(work.iterdir()) == []
    wrong = ParquetLog(interactions=log, out=tmp_path / "x", after=Path("s3://open/nothing"))
    with pytest.raises(UserError, match=r"^s3://open/nothing"):
        prepare(wrong)


def test_ids_splits_and_tags_are_those_of_a_log_on_a_disk(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    """An id of a folder's name and a column, groups by the folder, and text that is split."""
    log = write_log(tmp_path / "in" / "log")
    items = pa.table({"item_id": list(range(31)), "tags": ["a|b", "b", ""] * 10 + [None]})
    pq.write_table(items, tmp_path / "in" / "items.parquet")
    object_store.put_folder(tmp_path / "in", "remote/columns")
    far = Path("s3://open/remote/columns")
    for folder, out in ((log.parent, "near"), (far, "far")):
        prepare(
            ParquetLog(
                interactions=folder / "log",
                items=folder / "items.parquet",
                out=tmp_path / out,
                to="day=2",
                user_id="day,user_id",
                item_features=("tags",),
                separator=("|",),
                split_group="day",
            )
        )
    assert everything(tmp_path / "near") == everything(tmp_path / "far")
    users = pq.read_table(tmp_path / "far" / "users.parquet")["user_id"].to_pylist()
    assert sorted(users) == sorted(f"[{day},{user}]" for day in (1, 2) for user in range(20))


def test_a_pattern_and_several_addresses_on_the_command_line(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log")
    object_store.put_folder(log, "remote/days")
    prepare(ParquetLog(interactions=log, out=tmp_path / "data"))
    days = [f"s3://open/remote/days/day={day}" for day in (1, 2)]
    for number, words in enumerate((["s3://open/remote/days/day=*"], days)):
        out = tmp_path / f"data-{number}"
        run_command("prepare", ["parquet", "--interactions", *words, "--out", str(out)])
        assert everything(out) == everything(tmp_path / "data")


def test_a_dataset_in_a_store_is_validated(
    object_store: ObjectStore, planted: Dataset, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(planted.folder, Path)
    object_store.put_folder(planted.folder, "remote/valid")
    assert run_command("validate", ["s3://open/remote/valid"]) is None
    object_store.put("remote/valid/users.parquet", b"PAR1")
    assert run_command("validate", ["s3://open/remote/valid"]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("s3://open/remote/valid: ")
    assert all("s3://open/remote/valid" in line and str(work) not in line for line in printed)


def test_partitions_that_are_not_chosen_are_not_copied(
    object_store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log")
    object_store.put_folder(log, "remote/days")
    object_store.put("remote/days/day=3/part.parquet", b"never copied")
    object_store.put("remote/days/_SUCCESS", b"")
    (prepared, near) = (tmp_path / "far", tmp_path / "near")
    prepare(ParquetLog(interactions=log, out=near, to="1"))
    prepare(ParquetLog(interactions=Path("s3://open/remote/days"), out=prepared, to="day=1"))
    assert "s3://open/remote/days: copying 1 objects, 0 MiB, to" in capsys.readouterr().err
    assert (prepared / "test.parquet").read_bytes() == (near / "test.parquet").read_bytes()
    with pytest.raises(UserError, match=r"^--from 4: s3://open/remote/days: no partition lies wi"):
        prepare(ParquetLog(interactions=Path("s3://open/remote/days"), out=prepared, from_="4"))


def test_what_is_wrong_with_the_log_is_said_of_its_address(
    object_store: ObjectStore, tmp_path: Path, work: Path
) -> None:
    object_store.put("remote/broken/part.parquet", b"PAR1 and no end")
    out = tmp_path / "data"
    with pytest.raises(UserError, match=r"^s3://open/remote/broken/part\.parquet: is cut short"):
        prepare(ParquetLog(interactions=Path("s3://open/remote/broken"), out=out))
    with pytest.raises(UserError, match=r"^s3://open/remote/none: is not there: correct"):
        prepare(ParquetLog(interactions=Path("s3://open/remote/none"), out=out))
    assert list(work.iterdir()) == []
    assert not out.exists()


def test_an_address_that_holds_something_is_refused_before_any_work(
    object_store: ObjectStore,
) -> None:
    object_store.put("remote/taken/x", b"1")
    with pytest.raises(UserError, match=r"^s3://open/remote/taken holds objects that were not pub"):
        prepare(Synthetic(out=Path("s3://open/remote/taken"), users=10**9, items=10**9))
    with pytest.raises(UserError, match="--history-length 0: must be"):
        prepare(ParquetLog(interactions=Path("s3://b/x"), out=Path("data"), history_length=0))


def test_a_path_holds_an_address_by_its_letters() -> None:
    for text in ("s3://bucket/a/day=*/x", "gs://bucket"):
        assert str(address_in(path_or_address(text))) == text
        assert str(address_in(Path(text))) == text
    assert path_or_address("file:///a/b") == Path("/a/b")
    assert address_in(Path("/a/s3:/b")) is None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("day=*", ["day=1/a", "day=2/b/c"]),
        ("*/a", ["day=1/a"]),
        ("**/c", ["day=2/b/c", "c"]),
        ("day=*/*.x", []),
    ],
)
def test_a_pattern_fits_names_and_what_lies_below_them(pattern: str, names: list[str]) -> None:
    there = ["day=1/a", "day=2/b/c", "c", "monday=1/a"]
    fitting = [name for name in there if _fits(name, pattern)]
    assert fitting == names + (["monday=1/a"] if pattern == "*/a" else [])
