"""A bucket's objects: read by ranges and versions, listed, written under conditions, removed.

obstore does the requests to S3, Google Cloud Storage and Azure; it takes credentials, region and
endpoint from the environment variables of each. Timeouts are always set, and ``retry.py`` tries
again. Other stores are only read, through fsspec (``foreign.py``).
"""

import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from dat_rec.errors import UserError
from dat_rec.storage.address import GOOGLE, OBJECT_STORES, S3, Address, Pin
from dat_rec.storage.foreign import ForeignClient
from dat_rec.storage.retry import Retry

CONNECT_S, READ_S, REQUEST_S = 5, 30, 300
"""Seconds until a connection must stand, until the next bytes must come, and for a request."""
PART_BYTES, MOST_PARTS = 8 * 2**20, 9_000
"""Bytes of the parts that a large object is written in; and how many there may be."""
PARTS_AT_ONCE = 4


class ObjectStoreClient:
    """The objects of a bucket of S3, Google Cloud Storage or Azure.

    Args:
        address: of the bucket.
    """

    def __init__(self, address: Address) -> None:
        self._store = _open(address)
        self._retry = Retry()

    def get(self, address: Address, start: int, stop: int, pin: Pin) -> bytes:
        """Bytes ``start`` to ``stop`` of a version of an object.

        Args:
            address: the object's.
            start: first byte.
            stop: byte behind the last one, at most the object's size.
            pin: the version to read.

        Raises:
            ChangedError: the object is another version.
            MissingError: it is not there.
            UserError: the store refuses it, or has never answered.
            StoreError: the store has not answered until the deadline.
        """
        options: Any = {"range": (start, stop), "if_match": pin.tag}
        if pin.version:
            options["version"] = pin.version

        def read() -> bytes:
            return bytes(obstore.get(self._store, address.key, options=options).bytes())

        return self._retry(read, address, f"reading bytes {start:,} to {stop - 1:,}")

    def head(self, address: Address) -> Pin:
        """The version of an object.

        Raises:
            MissingError: it is not there.
        """

        def look() -> Pin:
            try:
                return _pin(obstore.head(self._store, address.key))
            except (BaseError, OSError):
                # The answer to a HEAD has no body: this one tells why.
                obstore.get(self._store, address.key, options={"range": (0, 1)})
                raise

        return self._retry(look, address, "looking for it")

    def list_below(self, address: Address) -> dict[str, Pin]:
        """The versions of all objects below a prefix, by key."""

        def look() -> dict[str, Pin]:
            pages = obstore.list(self._store, f"{address.key}/" if address.key else None)
            found = {meta["path"]: _pin(meta) for page in pages for meta in page}
            folders = _parents(found) | {address.key}
            return {key: pin for key, pin in found.items() if pin.size or key not in folders}

        return self._retry(look, address, "listing it")

    def put(
        self, address: Address, data: bytes | Path, *, create: bool = False, over: Pin | None = None
    ) -> Pin:
        """Write an object, which appears whole.

        Args:
            address: the object's.
            data: its bytes, or a file of them.
            create: only if there is none.
            over: only in place of this version.

        Returns:
            The version written.

        Raises:
            ChangedError: there is one, or another one than ``over``.
        """
        mode: Any = "create" if create else "overwrite"
        if over is not None:
            mode = {"e_tag": over.tag} | ({"version": over.version} if over.version else {})
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        conditional = create or over is not None

        def write() -> Pin:
            done = obstore.put(
                self._store,
                address.key,
                data,
                mode=mode,
                use_multipart=False if conditional else None,
                chunk_size=max(PART_BYTES, size // MOST_PARTS),
                max_concurrency=PARTS_AT_ONCE,
            )
            return Pin(size, _quoted(done["e_tag"] or ""), done["version"])

        return self._retry(write, address, "writing it")

    def delete(self, addresses: list[Address]) -> None:
        """Remove objects; those that are not there count as removed."""
        if addresses:
            keys = [address.key for address in addresses]
            self._retry(lambda: obstore.delete(self._store, keys), addresses[0], "removing it")


Client = ObjectStoreClient | ForeignClient


def client(address: Address) -> Client:
    """The client of an address's bucket, one for each in a process.

    Raises:
        UserError: the scheme is unknown, or the environment's settings are malformed.
    """
    return _client(address.scheme, address.bucket)


@cache
def _client(scheme: str, bucket: str) -> Client:
    address = Address(scheme, bucket)
    return ObjectStoreClient(address) if scheme in OBJECT_STORES else ForeignClient(address)


def forget_clients() -> None:
    """Let the next client be made of what the environment holds then."""
    _client.cache_clear()


def _open(address: Address) -> ObjectStore:
    options: Any = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=READ_S),
        "timeout": timedelta(seconds=REQUEST_S),
        "user_agent": "dat_rec",
        # Only where the endpoint says so: loopback, or a store in the same rack.
        "allow_http": any(value.startswith("http://") for value in _endpoints()),
    }
    # We try again ourselves: with a word to the user, and a deadline of ours.
    more: Any = {"client_options": options, "retry_config": {"max_retries": 0}}
    try:
        if address.scheme in S3:
            return S3Store(address.bucket, **more)
        if address.scheme in GOOGLE:
            return GCSStore(address.bucket, **more)
        return AzureStore(address.bucket, **more)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{address}: {reason}: correct the environment variables") from error


def _endpoints() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.startswith(("AWS_ENDPOINT", "GOOGLE_", "AZURE_")) and "://" in value:
            yield value.lower()


def _parents(keys: Iterable[str]) -> set[str]:
    """All keys above others: consoles and file systems leave empty objects that mark folders."""
    parts = (key.split("/") for key in keys)
    return {"/".join(one[:end]) for one in parts for end in range(1, len(one))}


def _pin(meta: Any) -> Pin:
    tag = _quoted(meta["e_tag"] or str(meta["last_modified"]))
    return Pin(meta["size"], tag, meta["version"])


def _quoted(tag: str) -> str:
    """An ETag as conditions want it: Azure's listings leave out its quotes."""
    return tag if not tag or tag.endswith('"') else f'"{tag}"'
