from pathlib import Path

import pytest

from dat_rec.errors import UserError
from dat_rec.publish.store import Collection, check_address, read_secret, told
from tests.end_to_end.forked import forked


def test_a_collection_tells_what_it_holds() -> None:
    name = "items_0012_0123456789ab_hnsw"
    assert Collection.of(name, "items") == (name, 12, "0123456789ab", "hnsw")
    for other in ("item", "items_0012", "items_0012_0123456789ab", ""):
        assert Collection.of(name, other) is None
    assert Collection.of("items_more_0001_0123456789ab_none", "items") is None


def test_secrets_are_read_and_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "from the environment")
    assert read_secret("KEY", None) == "from the environment"
    (tmp_path / "key").write_text("sekrit\n")
    assert read_secret("KEY", tmp_path / "key") == "sekrit"
    (tmp_path / "key").write_text("\n")
    for path in ("key", "nowhere"):
        with pytest.raises(UserError, match=path):
            read_secret("KEY", tmp_path / path)
    with (
        pytest.raises(UserError, match=r"^store: no … here$"),
        told("store", (OSError,), ["sekrit"]),
    ):
        raise OSError("no sekrit here.\n")
    with pytest.raises(UserError, match="--url: holds what may be a secret") as error:
        check_address("--url", "http://user:sekrit@host")
    assert "sekrit" not in str(error.value)


@pytest.mark.parametrize("address", ["", "  "])
def test_no_address_is_no_folder_here(address: str) -> None:
    with pytest.raises(UserError, match="--uri: is empty: name the store"):
        check_address("--uri", address)


@pytest.mark.parametrize(
    ("store", "module", "option", "variable"),
    [
        ("qdrant", "qdrant_client", "--url", "QDRANT_API_KEY"),
        ("milvus", "pymilvus", "--uri", "MILVUS_TOKEN"),
    ],
)
def test_a_server_that_is_not_there_is_told_in_one_line(
    tmp_path: Path, store: str, module: str, option: str, variable: str
) -> None:
    pytest.importorskip(module)
    to = ("publish", store, "--export", tmp_path)
    done = forked(*to, option, "http://127.0.0.1:1", **{variable: "sekrit"})
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"dat-rec: error: {store} http://127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "sekrit" not in done.stderr
    done = forked(*to, option, "http://u:sekrit@127.0.0.1:1")
    assert done.returncode == 2
    assert "sekrit" not in done.stderr
