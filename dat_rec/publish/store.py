"""What ``publish`` asks of a vector store, whichever it is.

A *collection* is what holds the items of one export: a table, or what the store calls so. Readers
know its alias alone. A collection's name tells its number, its export and its index; numbers rise,
so that the newest stands last.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import Catalogue

Index = Literal["none", "hnsw", "ivf"]
NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
COLLECTION = re.compile(r"_(?P<number>\d{4,})_(?P<export>[0-9a-f]{12})_(?P<index>none|hnsw|ivf)")
M, EF_CONSTRUCTION = 16, 200
"""Of HNSW: links of a vector, and candidates while it is built."""
LEAST_EF, LEAST_PROBES = 200, 32
"""What a search of an index looks at, at least: candidates of HNSW, lists of IVF."""


class Answer(NamedTuple):
    """The best items of one query, best first."""

    ids: list[Any]
    """(K,)"""
    scores: NDArray[np.float64]
    """(K,) inner products, falling."""


class Collection(NamedTuple):
    """A collection's name, and what it tells."""

    name: str
    number: int
    export: str
    built: str
    """The index."""

    @staticmethod
    def of(name: str, alias: str) -> "Collection | None":
        """The collection of an alias that is called so; None if it is none."""
        found = COLLECTION.fullmatch(name.removeprefix(alias)) if name.startswith(alias) else None
        return found and Collection(name, int(found["number"]), found["export"], found["index"])


class Store(Protocol):
    """One alias in a vector store, and its collections.

    Every method raises UserError, in one line, where the store refuses or cannot be reached.
    """

    where: str
    """The store's address, for messages; without a secret."""
    indexes: tuple[Index, ...]
    """Those that it knows."""

    def check(self, catalogue: Catalogue, index: Index, /) -> None:
        """Refuse a catalogue that the store cannot hold."""

    def collections(self) -> list[str]:
        """The names of all collections in the store, whosever they are."""

    def serving(self) -> str | None:
        """The collection that readers of the alias see; None if there is no alias.

        Raises:
            UserError: something else is called so.
        """

    def fill(self, collection: str, catalogue: Catalogue) -> None:
        """Make a collection without an index, which nobody sees yet, and fill it."""

    def count(self, collection: str) -> int:
        """The number of items in it."""

    def exact(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """The K best items of each query, by exact search."""

    def build(self, collection: str, index: Index, items: int, /) -> None:
        """Build the index; there is none for ``none``."""

    def search(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """The same by the index, asked as docs/publish.md says."""

    def switch(self, collection: str) -> None:
        """Let readers of the alias see this collection and no other, at once."""

    def drop(self, collection: str) -> None:
        """Remove a collection that nobody sees."""

    def close(self) -> None:
        """Let the connection go."""


def lists_of(items: int) -> int:
    """The number of IVF's lists: some √N, of at least 39 items each, as its training asks for."""
    return max(1, min(int(items**0.5), items // 39))


def read_secret(variable: str, file: Path | None) -> str | None:
    """A secret from a file or, without one, from the environment.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    if file is None:
        return os.environ.get(variable)
    try:
        text = file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: correct the path, or its rights") from error
    if not text:
        raise UserError(f"{file}: is empty: write the secret into it")
    return text


def check_address(option: str, address: str) -> None:
    """Refuse no address, and one with a user and a password, which logs and shells would keep.

    Raises:
        UserError: without the address.
    """
    if not address.strip():
        raise UserError(f"{option}: is empty: name the store")
    if "@" in address:
        raise UserError(f"{option}: holds what may be a secret: leave it out, see docs/publish.md")


@contextmanager
def told(
    where: str, errors: tuple[type[Exception], ...], secrets: Sequence[str | None] = ()
) -> Iterator[None]:
    """Say a client's error in one line, without secrets.

    Args:
        where: the store.
        errors: the classes of the client's errors.
        secrets: what must not be printed.
    """
    try:
        yield
    except errors as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join(lines[:2]) or type(error).__name__
        for secret in secrets:
            text = text.replace(secret, "…") if secret else text
        raise UserError(f"{where}: {text.rstrip('.')[:500]}") from None
