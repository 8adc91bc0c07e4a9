"""Objects of a real S3 server are read by their version, or refused in one line."""

import socket
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.exceptions import InvalidPathError

from dat_rec.data.dataset import Dataset
from dat_rec.errors import StoreError, UserError
from dat_rec.storage.address import Address, Pin, location
from dat_rec.storage.client import _pin, client, forget_clients
from dat_rec.storage.problems import ChangedError, problem_of
from dat_rec.storage.publish import whole_file, whole_folder
from dat_rec.storage.read import PinnedFile, open_parquet
from dat_rec.storage.retry import DEADLINE
from dat_rec.storage.snapshot import local_copy
from tests.object_store import FEW, SHUT, ObjectStore


def address(key: str) -> Address:
    found = location(f"s3://open/{key}")
    assert isinstance(found, Address)
    return found


def test_an_object_is_read_as_the_file_would_be(object_store: ObjectStore) -> None:
    data = np.random.default_rng(0).bytes(200_000)
    object_store.put("bytes", data)
    file = PinnedFile(address("bytes"))
    assert file.read() == data
    for start, stop in [(0, 10), (100, 199_990), (199_999, 200_000), (150_000, 999_999)]:
        file.seek(start)
        assert file.read(stop - start) == data[start:stop]
    assert file.read() == b""
    object_store.put("empty", b"")
    assert PinnedFile(address("empty")).read() == b""


def test_threads_read_one_file_at_once(object_store: ObjectStore, tmp_path: Path) -> None:
    """pyarrow's own threads seek and read without a lock."""
    values = np.random.default_rng(1).integers(0, 1 << 60, (8, 100_000))
    table = pa.table({f"c{number}": column for number, column in enumerate(values)})
    pq.write_table(table, tmp_path / "wide.parquet", row_group_size=10_000, compression="none")
    object_store.put("wide.parquet", tmp_path / "wide.parquet")
    with open_parquet(address("wide.parquet")) as file:
        assert file.read().equals(table)
        assert file.read_row_group(3, columns=["c2", "c5"]).equals(
            table.slice(30_000, 10_000).select(["c2", "c5"])
        )


def test_an_object_that_changes_while_it_is_read_is_named(object_store: ObjectStore) -> None:
    object_store.put("changing", b"a" * 300_000)
    file = PinnedFile(address("changing"))
    assert file.read(10) == b"a" * 10
    object_store.put("changing", b"b" * 300_000)
    with pytest.raises(
        ChangedError, match=r"^s3://open/changing: was written anew since it was pi"
    ):
        file.read(10)
    object_store.put("changing", b"a" * 1000)
    with pytest.raises(ChangedError, match=r"is truncated, or .*1,000 bytes, not 300,000"):
        file.read(10)
    object_store.delete("changing")
    with pytest.raises(ChangedError, match=r"was removed since it was pinned"):
        file.read(10)


def test_pyarrow_passes_the_error_on(object_store: ObjectStore, tmp_path: Path) -> None:
    table = pa.table({"x": np.random.default_rng(2).integers(0, 1 << 60, 100_000)})
    pq.write_table(table, tmp_path / "x.parquet", compression="none")
    object_store.put("x.parquet", tmp_path / "x.parquet")
    with open_parquet(address("x.parquet")) as file:
        object_store.put("x.parquet", b"other")
        with pytest.raises(ChangedError, match=r"x\.parquet: is truncated"):
            file.read()


@pytest.mark.parametrize(
    ("where", "variables", "line"),
    [
        ("s3://open/none", {}, "s3://open/none: is not there: correct the address"),
        ("s3://nobucket/x", {}, "s3://nobucket: there is no such bucket: correct the address"),
        ("s3://open/x", {"AWS_SECRET_ACCESS_KEY": "bad"}, "does not accept the key (Signature"),
        ("s3://open/x", {"AWS_ACCESS_KEY_ID": "bad"}, "not accept the key (InvalidAccessKeyId): s"),
        (f"s3://{SHUT}/x", FEW, f"s3://{SHUT}/x: access denied (looking for it): grant"),
        (
            "s3://open/x",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "nothing listens at http://127",
        ),
        (
            "s3://open/x",
            {"AWS_ENDPOINT_URL": "http://no.invalid"},
            "http://no.invalid is not known",
        ),
        ("nfs://open/x", {}, "nfs://open: nfs:// is no store that is known: use s3://"),
    ],
)
def test_what_the_store_refuses_is_one_line(
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    variables: dict[str, str],
    line: str,
) -> None:
    for bucket in ("open", SHUT):
        object_store.put("x", b"1", bucket)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(DEADLINE, "0.5")
    forget_clients()
    found = location(where)
    assert isinstance(found, Address)
    with pytest.raises(UserError) as raised:
        PinnedFile(found)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_port_that_says_nothing_costs_seconds(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body of the answer may stay away as well as the answer."""
    monkeypatch.setattr("dat_rec.storage.client.READ_S", 1)
    monkeypatch.setenv(DEADLINE, "0.5")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        forget_clients()
        begin = time.monotonic()
        with pytest.raises(UserError, match="does not answer, tried for"):
            PinnedFile(address("x"))
        assert time.monotonic() - begin < 10


def test_what_obstore_refuses_itself_is_not_tried_again() -> None:
    """Such as a name that it cannot hold: SeaweedFS has none, other stores may."""
    error = InvalidPathError('Path "a//b" contained empty path segment')
    problem = problem_of(error, address("a"), "listing it")
    assert not problem.passing
    assert not isinstance(problem.error, StoreError)
    assert str(problem.error).startswith("s3://open/a: listing it: Path ")


def test_a_server_that_is_away_is_named_and_one_that_comes_back_costs_only_time(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    object_store.put("kept", b"k" * 300_000)
    file = PinnedFile(address("kept"))
    object_store.kill()
    starting = threading.Timer(1, object_store.start)
    try:
        monkeypatch.setenv(DEADLINE, "0.5")
        with pytest.raises(StoreError) as raised:
            file.read(100)
    finally:
        starting.start()
    what = f"s3://open/kept: reading bytes 0 to 99: nothing listens at {object_store.endpoint}"
    assert str(raised.value).startswith(f"{what}, tried for 1 s: start again when")
    monkeypatch.setenv(DEADLINE, "60")
    assert file.read(100) == b"k" * 100
    starting.join()
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [f"{what}: trying again"] * 2
    assert len(said) == 3
    assert said[2].startswith("s3://open/kept: done, after")


def test_a_dataset_in_a_store_is_the_one_on_the_disk(
    object_store: ObjectStore, planted: Dataset
) -> None:
    assert isinstance(planted.folder, Path)
    object_store.put_folder(planted.folder, "copied")
    found = Dataset.open(address("copied"))
    assert found.schema == planted.schema
    assert found.row_digest() == planted.row_digest()
    seen = ["user_row", "item_index", "count"]
    assert found.table("seen", seen).equals(planted.table("seen", seen))
    # Pinned when it was opened: what is written later is not taken for it.
    object_store.put("copied/items.parquet", planted.folder / "users.parquet")
    with pytest.raises(ChangedError, match=r"^s3://open/copied/items\.parquet: was written anew"):
        found.item_columns()


def test_a_listing_that_changes_is_seen(object_store: ObjectStore, planted: Dataset) -> None:
    """By what is read later, and by ranks that compare what they have pinned."""
    assert isinstance(planted.folder, Path)
    object_store.put_folder(planted.folder, "listed")
    first, same = Dataset.open(address("listed")), Dataset.open(address("listed"))
    assert first.versions() == same.versions() != planted.versions() == ""
    vocabulary = next(key for key in object_store.keys("listed/vocabularies"))
    object_store.delete(vocabulary)
    assert Dataset.open(address("listed")).versions() != first.versions()
    with pytest.raises(ChangedError, match=rf"^s3://open/{vocabulary}: was removed since it was"):
        first.row_digest()


def test_a_bucket_may_keep_versions(object_store: ObjectStore, planted: Dataset) -> None:
    """Then a look at an object tells its version's id, and a listing does not."""
    assert isinstance(planted.folder, Path)
    object_store.keep_versions("versions")
    for name in ("schema.json", "items.parquet", "users.parquet"):
        object_store.put(f"copied/{name}", planted.folder / name, "versions")
    where = location("s3://versions/copied")
    found = Dataset.open(where)
    assert found.schema == planted.schema
    assert len(found.item_columns()) == len(planted.item_columns())
    for name in ("schema.json", "items.parquet"):
        object_store.put(f"copied/{name}", b"{}", "versions")
    with pytest.raises(ChangedError, match=r"^s3://versions/copied/items\.parquet: is truncated"):
        found.item_columns()

    with whole_folder(location("s3://versions/made"), marker="a") as folder:
        (folder / "a").write_text("1")
    with whole_folder(location("s3://versions/made"), marker="a", overwrite=True) as folder:
        (folder / "a").write_text("2")
    with local_copy(location("s3://versions/made"), "a") as folder:
        assert (folder / "a").read_text() == "2"


def test_azures_two_ways_to_write_an_etag_are_one() -> None:
    """Its listings leave out the quotes that its other answers and conditions have."""
    listed = {"size": 1, "e_tag": "0x8D", "last_modified": None, "version": None}
    assert _pin(listed) == _pin(listed | {"e_tag": '"0x8D"'}) == Pin(1, '"0x8D"')
    assert _pin(listed | {"e_tag": 'W/"0x8D"'}).tag == 'W/"0x8D"'


def test_what_fsspec_knows_is_read_and_not_written(planted: Dataset) -> None:
    """fsspec's own memory, in place of hdfs://."""
    assert isinstance(planted.folder, Path)
    memory = fsspec.filesystem("memory")
    memory.put(str(planted.folder), "/far/data", recursive=True)
    found = Dataset.open(location("memory://far/data"))
    assert found.row_digest() == planted.row_digest()
    memory.pipe_file("/far/data/items.parquet", b"other")
    with pytest.raises(ChangedError, match=r"^memory://far/data/items\.parquet: "):
        found.item_columns()
    with (
        pytest.raises(UserError, match=r"memory:// is read alone: write to s3://"),
        whole_file(location("memory://far/recs.parquet")) as path,
    ):
        path.touch()


def test_listing_takes_no_neighbour(object_store: ObjectStore) -> None:
    for key in ("near/a", "near/b/c", "nearby/x"):
        object_store.put(key, b"1")
    assert sorted(client(address("near")).list_below(address("near"))) == ["near/a", "near/b/c"]
