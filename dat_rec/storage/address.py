"""The text of a user in, a location out: a local path, or the address of an object store.

A local path stays a ``pathlib.Path``. An ``Address`` has the few methods of one that do not touch
the store; what does stands in ``read.py``.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from dat_rec.errors import UserError
from dat_rec.files import ADDRESS, local_path

S3 = ("s3", "s3a", "s3n")
GOOGLE = ("gs", "gcs")
AZURE = ("az", "abfs", "abfss", "azure", "adl")
OBJECT_STORES = (*S3, *GOOGLE, *AZURE)
"""Schemes that can be read and written. Others are read through fsspec, hdfs:// among them."""

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Pin(NamedTuple):
    """A version of an object: whoever reads by it reads this version or fails."""

    size: int
    """Bytes."""
    tag: str
    """The store's ETag; for a store without any, what tells the object's versions apart."""
    version: str | None = None
    """Version id, where the store keeps versions."""

    def same(self, other: "Pin") -> bool:
        """Whether both are of one version: ids may be missing, which a listing does not tell."""
        return self[:2] == other[:2]


class Address:
    """An object, or the prefix of objects, in a store.

    Args:
        scheme: as in ``s3``.
        bucket: bucket, container or host.
        key: name in the bucket, without slashes at its ends; empty for the whole bucket.
        pins: of all objects below, by key; None: objects are taken as they are found.
    """

    def __init__(
        self, scheme: str, bucket: str, key: str = "", pins: Mapping[str, Pin] | None = None
    ) -> None:
        self.scheme, self.bucket, self.key, self.pins = scheme, bucket, key, pins

    def __truediv__(self, name: str | PurePosixPath) -> "Address":
        key = "/".join(part for part in (self.key, str(name).strip("/")) if part)
        return Address(self.scheme, self.bucket, key, self.pins)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def pin(self) -> Pin | None:
        """The version that is to be read, if one was chosen."""
        return None if self.pins is None else self.pins.get(self.key)

    def resolve(self) -> "Address":
        """The address itself, which is always absolute."""
        return self

    absolute = resolve

    def with_key(self, key: str) -> "Address":
        """The object called ``key`` in the same bucket, by the same pins."""
        return Address(self.scheme, self.bucket, key, self.pins)

    def with_pins(self, pins: Mapping[str, Pin] | None) -> "Address":
        """The same address, to be read by ``pins``."""
        return Address(self.scheme, self.bucket, self.key, pins)


class _AsLocation:
    """Lets pydantic read a location from its text."""

    def __get_pydantic_core_schema__(self, *_: Any) -> Any:
        from pydantic_core import core_schema

        def read(value: Any) -> Path | Address:
            if isinstance(value, Path | Address):
                return value
            if not isinstance(value, str):
                raise ValueError("it must be a path or an address")
            return location(value)

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.to_string_ser_schema()
        )


Location = Annotated[Path | Address, _AsLocation()]
"""A local path, or an address in a store."""


def location(text: str, *, pattern: bool = False) -> Path | Address:
    """The location that a user has written; ``file://`` is read as the path.

    Args:
        text: a path, or an address.
        pattern: whether stars in an address stand for any text, for the caller to read.

    Raises:
        UserError: an address without a bucket, with a key, or with parts that no object can be
            called by.

    Example:
        >>> dat_rec.location("s3://bucket/data")
        Address('s3://bucket/data')
    """
    found = ADDRESS.match(text)
    if found is None or found[1].lower() == "file":
        return local_path(text)
    scheme, rest = found[1].lower(), text[found.end() :]
    if not rest.startswith("/"):
        raise UserError(f"{text}: is no address: write {scheme}://{rest}")
    bucket, _, key = rest[1:].partition("/")
    key = key.strip("/")
    if not bucket and scheme in OBJECT_STORES:
        raise UserError(f"{text}: names no bucket: write {scheme}://BUCKET/…")
    user, _, host = bucket.rpartition("@")
    if ":" in user or (user and scheme in (*S3, *GOOGLE)):
        # What is refused here may be a key, which no log is to hold.
        shown = "/".join(part for part in (host, key) if part)
        raise UserError(
            f"{scheme}://…@{shown}: holds what may be a key, and addresses stand in logs and in "
            "config.json: leave it out, and give keys in the environment, as docs/stores.md says"
        )
    if scheme in OBJECT_STORES and not BUCKET.fullmatch(bucket.partition("@")[0]):
        raise UserError(
            f"{text}: {bucket} is no bucket's name: it has letters, digits, . _ and - alone"
        )
    if scheme in AZURE and "@" in bucket:
        raise UserError(
            f"{text}: write {scheme}://CONTAINER/…, and the account in AZURE_STORAGE_ACCOUNT_NAME"
        )
    if any(part in ("", ".", "..") for part in key.split("/")) and key:
        raise UserError(f"{text}: has an empty part, . or ..: write the name in full")
    if any(sign in text for sign in ("?#[\\" if pattern else "?#[\\*")):
        raise UserError(f"{text}: holds one of ? # * [ \\, which is no part of a name here")
    return Address(scheme, bucket, key)


def holds(folder: Location, where: Location) -> bool:
    """Whether ``where`` is ``folder``, or lies below it."""
    if isinstance(folder, Path) and isinstance(where, Path):
        return folder.resolve() in (where.resolve(), *where.resolve().parents)
    return f"{where}/".startswith(f"{folder}/")


def below(where: Location, folder: Location) -> str:
    """The name of ``where`` below ``folder``, which holds it."""
    return str(where).removeprefix(str(folder)).lstrip("/")
