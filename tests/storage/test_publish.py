"""Folders and files appear in a real S3 store whole, or not at all."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dat_rec.errors import UserError
from dat_rec.storage import lease as lease_module
from dat_rec.storage import publish as publish_module
from dat_rec.storage.address import Address, Pin, location
from dat_rec.storage.client import client, forget_clients
from dat_rec.storage.lease import WRITER, Lease, lease, put_once
from dat_rec.storage.problems import ChangedError
from dat_rec.storage.publish import _publish, _upload, publish_folder, whole_file, whole_folder
from dat_rec.storage.read import PinnedFile
from dat_rec.storage.snapshot import MANIFEST, Manifest, local_copy, pinned, read_manifest
from tests.object_store import FEW, ObjectStore

MARKER = "schema.json"


@pytest.fixture
def where(object_store: ObjectStore, request: pytest.FixtureRequest) -> Address:
    """An address of this test's own."""
    found = location(f"s3://open/{request.node.name}")
    assert isinstance(found, Address)
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers show their life more often."""
    monkeypatch.setattr(lease_module, "RENEW_S", 0.2)
    monkeypatch.setattr(lease_module, "DEAD_S", 1.0)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers show no life, as if their machine stood still."""
    monkeypatch.setattr(lease_module, "RENEW_S", 3600)


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / MARKER).write_text(text)
    (folder / "inner" / "big").write_bytes(text.encode() * 10_000_000)
    (folder / "empty").touch()


def publish(where: Address, text: str, *, overwrite: bool = False) -> None:
    with whole_folder(where, marker=MARKER, overwrite=overwrite) as folder:
        fill(folder, text)


def content(where: Address) -> str:
    with local_copy(where, MARKER) as folder:
        text = (folder / MARKER).read_text()
        assert (folder / "inner" / "big").read_bytes() == text.encode() * 10_000_000
        assert (folder / "empty").read_bytes() == b""
    return text


def prefixes(store: ObjectStore, where: Address) -> set[str]:
    """What lies below an address: data, manifest, and the mark of a writer."""
    return {key.removeprefix(f"{where.key}/").partition("/")[0] for key in store.keys(where.key)}


def test_a_folder_is_published_and_replaced(object_store: ObjectStore, where: Address) -> None:
    publish(where, "a")
    assert content(where) == "a"
    manifest = read_manifest(where)
    assert manifest is not None
    assert prefixes(object_store, where) == {MANIFEST, manifest.prefix}
    with pytest.raises(UserError, match=r"^s3://open/.* is already there: .*--overwrite"):
        publish(where, "b")
    old = pinned(where, MARKER)
    publish(where, "b", overwrite=True)
    assert content(where) == "b"
    assert len(prefixes(object_store, where)) == 2
    # Who reads the old one is told so, and gets no file of the new one.
    assert isinstance(old, Address)
    with pytest.raises(ChangedError, match=r"schema\.json: was removed since it was pinned"):
        PinnedFile(old / MARKER).read()


def test_what_fails_leaves_nothing(object_store: ObjectStore, where: Address) -> None:
    def failing() -> None:
        with whole_folder(where, marker=MARKER) as folder:
            fill(folder, "a")
            raise UserError(f"{folder}/x: no")

    with pytest.raises(UserError, match=rf"^{where}/x: no$"):
        failing()
    assert object_store.keys(where.key) == []


def test_other_peoples_objects_are_left_alone(object_store: ObjectStore, where: Address) -> None:
    object_store.put(f"{where.key}/holiday.jpg", b"1")
    with pytest.raises(UserError, match=r"not published by dat-rec \(holiday.jpg\): name another"):
        publish(where, "a", overwrite=True)
    assert object_store.keys(where.key) == [f"{where.key}/holiday.jpg"]


def test_a_folder_of_another_kind_is_not_replaced(where: Address) -> None:
    publish(where, "a")
    with (
        pytest.raises(UserError, match=r"is there and holds no export\.json"),
        whole_folder(where, marker="export.json", overwrite=True),
    ):
        pass
    assert content(where) == "a"


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_tidies(
    object_store: ObjectStore,
    where: Address,
    quick: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(where, "a")
    fill(tmp_path / "new", "b")
    before = prefixes(object_store, where)
    code = (
        "import sys; from pathlib import Path; from dat_rec.storage.address import location; "
        "from dat_rec.storage.publish import publish_folder; "
        "publish_folder(Path(sys.argv[1]), location(sys.argv[2]), marker='schema.json', "
        "overwrite=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new"), str(where)]
    writer = subprocess.Popen(command)
    while len(prefixes(object_store, where) - before) < 2:  # writer.json and new data
        assert writer.poll() is None
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert WRITER in prefixes(object_store, where)
    assert content(where) == "a"
    publish_folder(tmp_path / "new", where, marker=MARKER, overwrite=True)
    said = capsys.readouterr().err
    assert f"process {writer.pid} on" in said
    assert "has died: taken over" in said
    assert "left by a writer that died: removed" in said
    assert content(where) == "b"
    assert len(prefixes(object_store, where)) == 2


def test_of_two_writers_one_is_refused(
    object_store: ObjectStore, where: Address, quick: None
) -> None:
    first = Lease(where, "data-" + 32 * "1")
    try:
        with pytest.raises(UserError, match=r"another process is writing it \(process \d+ on"):
            Lease(where, "data-" + 32 * "2")
        first.check()
    finally:
        first.close()
    assert object_store.keys(where.key) == []


def test_a_writer_that_was_overtaken_publishes_nothing(
    object_store: ObjectStore, where: Address, quick: None
) -> None:
    first = Lease(where, "data-" + 32 * "1")
    try:
        object_store.put(f"{where.key}/{WRITER}", b"{}")
        first._thread.join(5)
        with pytest.raises(UserError, match="taken it over: nothing was published"):
            first.check()
    finally:
        first.close()


def test_a_writer_that_was_overtaken_leaves_the_right_to_the_other(
    object_store: ObjectStore, where: Address, still: None
) -> None:
    first = Lease(where, "data-" + 32 * "1")
    object_store.put(f"{where.key}/{WRITER}", b"of the other")
    first.close()
    assert object_store.get(f"{where.key}/{WRITER}") == b"of the other"


def test_a_writer_that_was_wrongly_taken_for_dead_harms_nobody(
    object_store: ObjectStore,
    where: Address,
    still: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It stood still while another one published, and goes on."""
    fill(tmp_path / "a", "a")
    fill(tmp_path / "b", "b")
    with lease(where) as slow:
        manifest = _upload(tmp_path / "a", where, slow)
        object_store.delete(f"{where.key}/{WRITER}")
        publish_folder(tmp_path / "b", where, marker=MARKER)
        assert (
            f"{manifest.prefix}: 3 objects, left by a writer that died" in capsys.readouterr().err
        )
        with pytest.raises(UserError, match="another writer has published there meanwhile"):
            _publish(manifest, where, slow, None)
    assert content(where) == "b"
    assert len(prefixes(object_store, where)) == 2


def test_what_another_writer_has_begun_is_removed_by_who_publishes_alone(
    object_store: ObjectStore,
    where: Address,
    still: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that the slow one may still publish what it has, if it is the first."""

    def dies(*_: object) -> Manifest:
        raise MemoryError

    fill(tmp_path / "a", "a")
    with lease(where) as slow:
        manifest = _upload(tmp_path / "a", where, slow)
        object_store.delete(f"{where.key}/{WRITER}")
        (tmp_path / "b").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(publish_module, "_upload", dies)
            with pytest.raises(MemoryError):
                publish_folder(tmp_path / "b", where, marker=MARKER)
        _publish(manifest, where, slow, None)
    assert content(where) == "a"


def test_what_a_writer_begins_after_a_publication_stays(
    object_store: ObjectStore, where: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = f"{where.key}/data-{32 * '9'}/x"

    def put_and_stand_still(path: Address, data: bytes, over: Pin | None) -> Pin:
        pin = put_once(path, data, over)
        object_store.put(begun, b"of the next one")
        return pin

    monkeypatch.setattr(publish_module, "put_once", put_and_stand_still)
    publish(where, "a")
    assert object_store.get(begun) == b"of the next one"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "the manifest is not valid JSON"),
        ("[]", "it must be an object"),
        ('{"version": 2}', "version 2, this program reads 1"),
        ('{"prefix": "data-1"}', "files is missing"),
        ('{"prefix": "..", "files": {}}', "'..' is no name below the folder"),
        (
            '{"prefix": "x", "files": {"../y": {"size": 1, "etag": "a", "sha256": ""}}}',
            "'../y' is no name below",
        ),
    ],
)
def test_a_manifest_of_rubbish_is_refused(text: str, why: str, object_store: ObjectStore) -> None:
    object_store.put("rubbish/manifest.json", text.encode())
    with pytest.raises(UserError) as raised:
        pinned(location("s3://open/rubbish"), MARKER)
    assert str(raised.value).startswith("s3://open/rubbish/manifest.json: ")
    assert why in str(raised.value)


def test_twenty_racing_writers_of_one_manifest_have_one_winner(where: Address) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        with suppress(ChangedError):
            client(where).put(where / MARKER, b"%d" % number, create=True)
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert PinnedFile(where / MARKER).read() == b"%d" % won[0]


def test_a_file_is_published_whole(object_store: ObjectStore, where: Address) -> None:
    def failing() -> None:
        with whole_file(where / "recs.parquet") as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert object_store.keys(where.key) == []
    with whole_file(where / "recs.parquet") as path:
        path.write_bytes(b"x" * 20_000_000)
    assert object_store.get(f"{where.key}/recs.parquet") == b"x" * 20_000_000


def test_a_key_that_may_only_read_is_told_so(
    where: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FEW.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    with pytest.raises(UserError, match=rf"^{where}/{WRITER}: access denied \(writing it\): grant"):
        publish(where, "a")


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    """No test uses the keys of another."""
    forget_clients()
    yield
    forget_clients()
