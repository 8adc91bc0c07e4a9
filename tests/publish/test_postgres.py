"""What PostgreSQL alone has: rights, types, limits, and settings that rows go missing without."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import Catalogue
from dat_rec.publish.publish import publish
from tests.end_to_end.forked import forked

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def store() -> Iterator[object]:
    from dat_rec.publish.postgres import Postgres

    opened = Postgres("items")
    yield opened
    opened.close()


@pytest.fixture
def db() -> Iterator["psycopg.Connection[tuple]"]:
    with psycopg.connect("", autocommit=True) as connection:
        yield connection


def test_columns_keep_their_types_and_values(store, db, today: Path) -> None:
    publish(today, store, "items")
    kinds = dict(
        db.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'items'::regclass AND attnum > 0"
        ).fetchall()
    )
    assert kinds == {
        "item_id": "bigint",
        "vector": "vector(9)",
        "title": "text",
        "category": "text",
        "train_count": "bigint",
        "tags": "text[]",
        "price": "double precision",
        "fresh": "boolean",
        "feature_export": "bigint",
        "export": "text",
    }
    names = ("title", "category", "train_count", "tags", "price", "fresh", "feature_export")
    query = f"SELECT item_id, {', '.join(names)} FROM items"
    found = {row[0]: dict(zip(names, row[1:], strict=True)) for row in db.execute(query)}
    for row in pq.read_table(today / "items.parquet").to_pylist():
        expected = row | {"category": row["category_name"], "feature_export": row["export"]}
        if np.isnan(expected["price"]):
            expected["price"] = None
        assert found.pop(row["item_id"]) == {name: expected[name] for name in names}
    assert not found


def test_without_the_documented_settings_hnsw_gives_too_few(
    store, db, exported: Path, queries: NDArray[np.float32]
) -> None:
    publish(exported, store, "items", index="hnsw")
    db.execute("SET enable_seqscan = off")
    literal = str(queries[0].tolist())
    plain = "SELECT item_id FROM items ORDER BY vector <#> %s::vector LIMIT 100"
    assert len(db.execute(plain, [literal]).fetchall()) == 40
    db.execute("SET hnsw.ef_search = 200")
    assert len(db.execute(plain, [literal]).fetchall()) == 100


def test_rights_on_the_view_stay(store, db, today: Path, tomorrow: Path) -> None:
    publish(today, store, "items")
    db.execute("DROP ROLE IF EXISTS reader")
    db.execute("CREATE ROLE reader")
    db.execute("GRANT SELECT ON items TO reader")
    # With other columns: the view cannot be replaced by CREATE OR REPLACE.
    publish(tomorrow, store, "items")
    db.execute("SET ROLE reader")
    assert db.execute("SELECT count(*), max(item_id) FROM items").fetchone()[0] == 500
    db.execute("RESET ROLE")
    db.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_what_somebody_else_has_made_is_left_alone(store, db, today: Path) -> None:
    db.execute("CREATE TABLE items (mine int)")
    with pytest.raises(UserError, match="items is there, and dat-rec has not made it"):
        publish(today, store, "items")
    assert db.execute("SELECT count(*) FROM items").fetchone() == (0,)


def test_two_at_a_time_are_refused(store, monkeypatch: pytest.MonkeyPatch) -> None:
    from dat_rec.publish.postgres import SETTINGS, Postgres

    monkeypatch.setitem(SETTINGS, "lock_timeout", "1s")
    with pytest.raises(UserError, match="another process is publishing items: wait for it"):
        Postgres("items")
    Postgres("others").close()


@pytest.mark.parametrize(
    ("dim", "index", "message"),
    [
        (2001, "hnsw", "2,001 dimensions, and pgvector indexes 2,000 at most: --index none"),
        (2001, "ivf", "2,001 dimensions, and pgvector indexes 2,000 at most: --index none"),
        (16001, "none", "16,001 dimensions, and pgvector stores 16,000 at most: train narrower"),
        (2001, "none", ""),
        (2000, "hnsw", ""),
    ],
)
def test_vectors_that_are_too_long_are_refused(
    store, today: Path, dim: int, index: str, message: str
) -> None:
    with Catalogue.open(today) as catalogue:
        wide = replace(catalogue, dim=dim)
        if not message:
            store.check(wide, index)
            return
        with pytest.raises(UserError, match=message):
            store.check(wide, index)


def refused(*arguments: str | Path, **variables: str) -> str:
    done = forked("publish", *arguments, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("dat-rec: error: postgres")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "sekrit" not in done.stderr + done.stdout
    return done.stderr


def test_a_database_that_does_not_fit_is_refused_in_one_line(
    database: str, server: str, db, today: Path
) -> None:
    to = ("postgres", "--export", today)
    assert "onnection refused" in refused(
        *to, PGHOST="127.0.0.1", PGPORT="1", PGPASSWORD="sekrit", PGUSER="sekrit-user"
    )
    here = {"PGHOST": server, "PGUSER": "postgres"}
    said = refused(*to, **here, PGDATABASE="postgres")
    assert "the database has no pgvector: install it, then CREATE EXTENSION vector" in said
    assert 'database "nowhere" does not exist' in refused(*to, **here, PGDATABASE="nowhere")
    db.execute("DROP ROLE IF EXISTS poor")
    db.execute("CREATE ROLE poor LOGIN PASSWORD 'sekrit'")
    poor = here | {"PGUSER": "poor", "PGPASSWORD": "sekrit", "PGDATABASE": database}
    assert "permission denied for schema public" in refused(*to, **poor)
    db.execute("DROP ROLE poor")
    done = forked("publish", *to, **here, PGDATABASE=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert "items is items_0001_" in done.stdout
    assert "already" in forked("publish", *to, **here, PGDATABASE=database).stdout


def test_readers_see_one_whole_export_at_any_time(store, today: Path, tomorrow: Path) -> None:
    first = publish(tomorrow, store, "items")
    items = {first.export: 500}
    seen: list[tuple[str, str, int]] = []
    failed: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        try:
            with psycopg.connect("", autocommit=True) as db:
                while not done.is_set():
                    query = "SELECT min(export), max(export), count(*) FROM items"
                    seen.append(db.execute(query).fetchone())
        except psycopg.Error as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for export, rows in ((today, 700), (tomorrow, 500), (today, 700)):
            items[publish(export, store, "items", keep=0).export] = rows
    finally:
        done.set()
        reader.join(60)
    assert not failed
    assert {export for export, _, _ in seen} == set(items)
    assert all(low == high and count == items[low] for low, high, count in seen)


def test_views_over_it_stay_while_its_columns_do(store, db, today: Path, exported: Path) -> None:
    publish(today, store, "items")
    db.execute("CREATE VIEW dear AS SELECT * FROM items WHERE price > 100")
    before = db.execute("SELECT count(*) FROM dear").fetchone()
    publish(exported, store, "items", keep=0)
    assert db.execute("SELECT count(*) FROM dear").fetchone() > before


def test_the_first_schema_of_the_search_path_is_published_into(
    db, today: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dat_rec.publish.postgres import Postgres

    db.execute("CREATE SCHEMA shop")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=shop,public")
    store = Postgres("items")
    done = publish(today, store, "items")
    assert publish(today, store, "items") == done._replace(queries=0)
    store.close()
    assert db.execute("SELECT count(*) FROM shop.items").fetchone() == (700,)
