"""What a user writes becomes a path or an address, or is refused."""

from pathlib import Path

import pytest

from dat_rec.errors import UserError
from dat_rec.storage.address import Address, Pin, below, location


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("s3://bucket/log", "s3://bucket/log"),
        ("S3://bucket/day=2026-11-01/part 0.parquet/", "s3://bucket/day=2026-11-01/part 0.parquet"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/x", "az://container/x"),
        ("hdfs:///x", "hdfs:///x"),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, written: str) -> None:
    found = location(text)
    assert isinstance(found, Address)
    assert str(found) == written
    assert location(str(found)) == found


@pytest.mark.parametrize("text", ["/x", "x", "./s3:/x", "run-12:30/x", "a=b:c", "C:", "file:///x"])
def test_any_other_text_is_a_path(text: str) -> None:
    assert location(text) == Path(text.removeprefix("file://"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3:///log", "names no bucket"),
        ("s3://my logs/x", "my logs is no bucket's name"),
        ("s3://user:key@bucket/x", "^s3://…@bucket/x: holds what may be a key"),
        ("gs://key@bucket", "^gs://…@bucket: holds what may be a key"),
        ("abfss://x:key@y.dfs.core.windows.net/z", "^abfss://…@y.dfs.core.windows.net/z: holds"),
        ("sftp://user:key@host/x", "^sftp://…@host/x: holds what may be a key"),
        ("s3:/bucket/log", "is no address: write s3://bucket/log"),
        ("s3://bucket/../log", "has an empty part"),
        ("s3://bucket/a//log", "has an empty part"),
        ("s3://bucket/*.parquet", "holds one of"),
        ("abfss://x@y.dfs.core.windows.net/z", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("file://host/x", "names another host"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        location(text)


def test_what_lies_below_keeps_the_pins() -> None:
    pin = Pin(3, '"x"')
    folder = Address("s3", "b", "data", {"data/a/b": pin})
    assert (folder / "a" / "b").pin == (folder / "a/b").pin == pin
    assert (folder / "a").pin is None
    assert below(folder / "a/b", folder) == "a/b"
    assert below(Path("x/a/b"), Path("x")) == "a/b"
