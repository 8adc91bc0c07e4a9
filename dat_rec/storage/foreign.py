"""Objects of the stores that fsspec knows (hdfs:// by pyarrow, and others): read, never written.

They have no write under a condition, by which something can appear whole or not at all.
"""

import contextlib
from typing import Any, NoReturn

from dat_rec.errors import UserError
from dat_rec.storage.address import Address, Pin
from dat_rec.storage.problems import ChangedError, MissingError


class ForeignClient:
    """The objects of one host.

    Args:
        address: of the host.
    """

    def __init__(self, address: Address) -> None:
        # As slow to import as pyarrow, and seldom needed.
        import fsspec

        try:
            self._files, _ = fsspec.core.url_to_fs(str(address) + "/", use_listings_cache=False)
        except ValueError as error:
            raise UserError(
                f"{address}: {address.scheme}:// is no store that is known: use s3://, gs:// or "
                "az://, or copy the files to a disk"
            ) from error
        except ImportError as error:
            raise UserError(f"{address}: {error}: install it, or copy the files") from error
        except Exception as error:
            raise UserError(f"{address}: cannot be reached: {_first(error)}") from error

    def get(self, address: Address, start: int, stop: int, pin: Pin) -> bytes:
        """As of ``ObjectStoreClient``; the version is looked up before and after."""
        if self.head(address) != pin:
            raise _changed(address)
        try:
            data: bytes = self._files.cat_file(_name(address), start=start, end=stop)
        except Exception as error:
            raise UserError(f"{address}: cannot be read: {_first(error)}") from error
        if self.head(address) != pin:
            raise _changed(address)
        return data

    def head(self, address: Address) -> Pin:
        """The version of an object, as far as the store tells: size and time, or a checksum."""
        try:
            found = self._files.info(_name(address))
        except FileNotFoundError as error:
            raise MissingError(f"{address}: is not there: correct the address") from error
        except Exception as error:
            raise UserError(f"{address}: cannot be looked at: {_first(error)}") from error
        if found["type"] != "file":
            raise MissingError(f"{address}: is no file: correct the address")
        return _pin(found)

    def list_below(self, address: Address) -> dict[str, Pin]:
        """The versions of all files below a folder, by key."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = self._files.find(_name(address))
        host = self._files._strip_protocol(f"{address.scheme}://{address.bucket}/").strip("/")
        keys = [name.strip("/").removeprefix(f"{host}/" if host else "") for name in names]
        # Asked for one by one: some stores tell of a file otherwise when they list it.
        return {key: self.head(address.with_key(key)) for key in keys}

    def put(self, address: Address, *_: object, **__: object) -> NoReturn:
        """Refuse to write."""
        raise UserError(
            f"{address}: {address.scheme}:// is read alone: write to s3://, gs://, az:// or a "
            "disk, and copy it"
        )

    def delete(self, addresses: list[Address]) -> NoReturn:
        """Refuse to remove anything."""
        self.put(addresses[0])


def _name(address: Address) -> str:
    return str(address)


def _pin(found: dict[str, Any]) -> Pin:
    tag = next(
        (found[name] for name in ("ETag", "etag", "mtime", "created") if found.get(name)), ""
    )
    return Pin(int(found["size"]), str(tag))


def _changed(address: Address) -> ChangedError:
    return ChangedError(
        f"{address}: has changed while it was read: start again when nobody writes there"
    )


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
