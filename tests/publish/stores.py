"""The engines that the tests publish into, each with the query that docs/publish.md gives."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dat_rec.install import CHECKOUT
from dat_rec.publish.store import Store

SECTIONS = {
    "postgres": "PostgreSQL with pgvector",
    "lancedb": "LanceDB",
    "milvus": "Milvus",
    "qdrant": "Qdrant",
}


def documented(kind: str) -> Callable[..., list[tuple[Any, float]]]:
    """The function ``top`` of the store's section."""
    text = (CHECKOUT / "docs" / "publish.md").read_text()
    section = text.partition(f"## {SECTIONS[kind]}\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)
    top: Callable[..., list[tuple[Any, float]]] = names["top"]
    return top


class Place(NamedTuple):
    """Where a store is."""

    kind: str
    at: Any
    """A folder; of Qdrant, the client in memory, which is the engine."""

    @contextmanager
    def open(self, name: str = "items") -> Iterator[Store]:
        """The store, as ``publish`` takes it."""
        store = open_store(self.kind, self.at, name)
        try:
            yield store
        finally:
            if self.kind != "qdrant":
                store.close()
            if self.kind == "milvus":
                release(self.at)

    @contextmanager
    def reader(self) -> Iterator[Any]:
        """A connection of a reader's own, which knows nothing of ours."""
        if self.kind == "postgres":
            import psycopg
            from pgvector.psycopg import register_vector

            with psycopg.connect("", autocommit=True) as db:
                register_vector(db)
                yield db
        elif self.kind == "lancedb":
            import lancedb

            yield lancedb.connect(str(self.at))
        elif self.kind == "milvus":
            from pymilvus import MilvusClient

            db = MilvusClient(str(self.at))
            try:
                yield db
            finally:
                db.close()
                release(self.at)
        else:
            with warnings.catch_warnings():
                # That its exact search knows no ef.
                warnings.simplefilter("ignore", UserWarning)
                yield self.at

    def top(self, *arguments: Any) -> list[tuple[Any, float]]:
        """What the documented query gives: (query, k, category)."""
        with self.reader() as db:
            return [(item, float(score)) for item, score in documented(self.kind)(db, *arguments)]


def release(path: Path) -> None:
    """Let a file of milvus-lite go, which its process otherwise keeps to its end."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(path))


def open_store(kind: str, at: Any, name: str = "items") -> Store:
    """A store of one kind; of PostgreSQL, that of the environment."""
    if kind == "postgres":
        from dat_rec.publish.postgres import Postgres

        return Postgres(name)
    if kind == "lancedb":
        from dat_rec.publish.lance import Lance

        return Lance(name, str(at))
    if kind == "milvus":
        from dat_rec.publish.milvus import Milvus

        return Milvus(name, str(at))
    from dat_rec.publish.qdrant import Qdrant

    return Qdrant(name, at, "in memory")
