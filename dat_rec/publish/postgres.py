"""PostgreSQL with pgvector: a collection is a table, and the alias is a view.

The view is replaced in a transaction, so that a reader's query sees the old table or the new one.
What leads to the server are libpq's own settings: ``PGHOST``, ``PGDATABASE``, ``PGUSER``,
``PGPASSWORD``, ``PGSERVICE``, ``~/.pgpass`` and so on.
"""

import os
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg import sql

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import EXPORT, VECTOR, Catalogue, as_rows
from dat_rec.publish.store import (
    EF_CONSTRUCTION,
    LEAST_EF,
    LEAST_PROBES,
    Answer,
    Index,
    M,
    lists_of,
    told,
)

STORED, INDEXED = 16_000, 2_000
"""Maximum dimensions of a ``vector``, and of one with an index."""
LONGEST_NAME = 63
"""Maximum bytes of a column's name: PostgreSQL would cut it."""
MOST_EF = 1_000
"""Of ``hnsw.ef_search``."""
CONNECT_S = "10"
SETTINGS = {
    # For which the switch and the removal of a table wait for readers, and all for another process.
    "lock_timeout": "10s",
    # Where this process is killed, the server ends its statement, and lets its lock go.
    "client_connection_check_interval": "1s",
}
TYPES = {
    "int64": "bigint",
    "double": "double precision",
    "bool": "boolean",
    "string": "text",
}
"""By Arrow's names; a list of text is ``text[]``."""
DDL = sql.SQL


class Postgres:
    """See ``dat_rec.publish.store.Store``.

    Args:
        name: of the view, in the first schema of the search path.

    Raises:
        UserError: the server cannot be reached, has no pgvector, or somebody else is publishing.
    """

    indexes: tuple[Index, ...] = ("none", "hnsw", "ivf")

    def __init__(self, name: str) -> None:
        self._name = name
        self.where = "postgres"
        with self._told():
            os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_S)
            self._db = psycopg.connect("", autocommit=True)
        info = self._db.info
        self.where = f"postgres {info.host or 'local'}:{info.port}/{info.dbname}"
        with self._told():
            for setting, value in SETTINGS.items():
                self._db.execute("SELECT set_config(%s, %s, false)", [setting, value])
            found = self._db.execute("SELECT current_schema()").fetchone()
            self._schema = found[0] if found else None
            if self._schema is None:
                raise UserError(f"{self.where}: the search path names no schema: create one")
            has = "SELECT FROM pg_extension WHERE extname = 'vector'"
            if self._db.execute(has).fetchone() is None:
                raise UserError(
                    f"{self.where}: the database has no pgvector: install it, then CREATE "
                    "EXTENSION vector"
                )
            register_vector(self._db)
            key = f"dat-rec publish {self._schema}.{name}"
            try:
                self._db.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [key])
            except psycopg.errors.LockNotAvailable as error:
                raise UserError(
                    f"{self.where}: another process is publishing {name}: wait for it"
                ) from error

    def check(self, catalogue: Catalogue, index: Index) -> None:
        """Refuse vectors and names that are too long."""
        most = STORED if index == "none" else INDEXED
        if catalogue.dim > most:
            what = "stores" if index == "none" else "indexes"
            raise UserError(
                f"{self.where}: vectors have {catalogue.dim:,} dimensions, and pgvector {what} "
                f"{most:,} at most: " + ("--index none" if index != "none" else "train narrower")
            )
        for field in catalogue.schema:
            if len(field.name.encode()) > LONGEST_NAME:
                raise UserError(
                    f"{self.where}: column {field.name!r} has more than {LONGEST_NAME} bytes, "
                    "which is the longest name"
                )

    def collections(self) -> list[str]:
        """The tables of the schema."""
        with self._told():
            query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
            return [row[0] for row in self._db.execute(query)]

    def serving(self) -> str | None:
        """What the view's comment names."""
        query = (
            "SELECT relkind = 'v', obj_description(oid) FROM pg_class "
            "WHERE relname = %s AND relnamespace = current_schema()::regnamespace"
        )
        with self._told():
            found = self._db.execute(query, [self._name]).fetchone()
        if found is not None and not (found[0] and found[1]):
            raise UserError(
                f"{self.where}: {self._name} is there, and dat-rec has not made it: choose "
                "another --name"
            )
        return None if found is None else str(found[1])

    def fill(self, collection: str, catalogue: Catalogue) -> None:
        """Copy the items into a new table, in one transaction."""
        fields = [field for field in catalogue.schema if field.name != EXPORT]
        names = [sql.Identifier(field.name) for field in fields]
        kinds = [_type(field.name, str(field.type), catalogue.dim) for field in fields]
        columns = [DDL("{} {}").format(*pair) for pair in zip(names, map(DDL, kinds), strict=True)]
        table = sql.Identifier(collection)
        with self._told(), self._db.transaction(), self._db.cursor() as cursor:
            cursor.execute(DDL("CREATE TABLE {} ({})").format(table, DDL(", ").join(columns)))
            into = DDL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)
            with cursor.copy(into) as copy:
                # What COPY knows the types by, without vector's dimensions.
                copy.set_types([kind.partition("(")[0] for kind in kinds])
                for batch in catalogue.batches():
                    for row in as_rows(batch):
                        copy.write_row([row[field.name] for field in fields])
            for rest in ("ALTER TABLE {} ADD PRIMARY KEY (item_id)", "COMMENT ON TABLE {} IS {}"):
                cursor.execute(DDL(rest).format(table, sql.Literal(catalogue.digest)))
            cursor.execute(DDL("CREATE INDEX ON {} (category)").format(table))
        with self._told():
            self._db.execute(DDL("ANALYZE {}").format(table))

    def count(self, collection: str) -> int:
        """Count the rows."""
        query = DDL("SELECT count(*) FROM {}").format(sql.Identifier(collection))
        with self._told():
            found = self._db.execute(query).fetchone()
        return int(found[0]) if found else 0

    def exact(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By a scan of the table."""
        return self._ask(collection, query_QD, k, {"enable_indexscan": "off"})

    def build(self, collection: str, index: Index, items: int) -> None:
        """Build the index in one transaction."""
        method = {
            "hnsw": f"hnsw (vector vector_ip_ops) WITH (m = {M}, "
            f"ef_construction = {EF_CONSTRUCTION})",
            "ivf": f"ivfflat (vector vector_ip_ops) WITH (lists = {lists_of(items)})",
        }
        if index in method:
            statement = DDL("CREATE INDEX ON {} USING {}")
            with self._told():
                self._db.execute(statement.format(sql.Identifier(collection), DDL(method[index])))

    def search(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By the index, which goes on until it has K."""
        settings = {
            "hnsw.ef_search": str(min(MOST_EF, max(LEAST_EF, k))),
            "hnsw.iterative_scan": "strict_order",
            "ivfflat.probes": str(LEAST_PROBES),
            "ivfflat.iterative_scan": "relaxed_order",
        }
        return self._ask(collection, query_QD, k, settings)

    def switch(self, collection: str) -> None:
        """Replace the view; rights that were granted on it stay."""
        view, table = sql.Identifier(self._name), sql.Identifier(collection)
        digest = "SELECT obj_description(%s::regclass)"
        with self._told(), self._db.transaction():
            found = self._db.execute(digest, [f'"{collection}"']).fetchone()
            select = DDL("SELECT *, {}::text AS export FROM {}").format(
                sql.Literal(found[0] if found else None), table
            )
            try:
                with self._db.transaction():
                    self._db.execute(DDL("CREATE OR REPLACE VIEW {} AS {}").format(view, select))
            except psycopg.errors.InvalidTableDefinition:
                # The columns are others.
                self._replace(view, select)
            comment = DDL("COMMENT ON VIEW {} IS {}")
            self._db.execute(comment.format(view, sql.Literal(collection)))

    def _replace(self, view: sql.Identifier, select: sql.Composed) -> None:
        """Remove the view and make it anew, with the rights that others had on it."""
        grants = self._db.execute(GRANTS, [self._name]).fetchall()
        self._db.execute(DDL("DROP VIEW {}").format(view))
        self._db.execute(DDL("CREATE VIEW {} AS {}").format(view, select))
        for right, grantee in grants:
            to = DDL("PUBLIC") if grantee is None else sql.Identifier(grantee)
            self._db.execute(DDL("GRANT {} ON {} TO {}").format(DDL(right), view, to))

    def drop(self, collection: str) -> None:
        """Remove the table; it waits for those who read it."""
        with self._told():
            self._db.execute(DDL("DROP TABLE {}").format(sql.Identifier(collection)))

    def close(self) -> None:
        """Let the connection and its lock go."""
        self._db.close()

    def _ask(
        self, collection: str, query_QD: NDArray[np.float32], k: int, settings: dict[str, str]
    ) -> list[Answer]:
        query = DDL(
            "SELECT item_id, -(vector <#> %(query)s) AS score FROM {} "
            "ORDER BY vector <#> %(query)s LIMIT %(k)s"
        ).format(sql.Identifier(collection))
        answers = []
        with self._told(), self._db.transaction():
            for setting, value in settings.items():
                self._db.execute("SELECT set_config(%s, %s, true)", [setting, value])
            for vector in query_QD:
                found = self._db.execute(query, {"query": vector, "k": k}).fetchall()
                # ivfflat's iterative scan gives lists one after the other.
                found.sort(key=lambda row: -row[1])
                answers.append(
                    Answer([row[0] for row in found], np.array([row[1] for row in found]))
                )
        return answers

    def _told(self) -> Any:
        return told(self.where, (psycopg.Error,), [os.environ.get("PGPASSWORD")])


GRANTS = (
    "SELECT privilege_type, rolname FROM pg_class, aclexplode(relacl) "
    "LEFT JOIN pg_roles ON pg_roles.oid = grantee "
    "WHERE relname = %s AND relkind = 'v' AND relnamespace = current_schema()::regnamespace "
    "AND grantee <> relowner"
)
"""The rights that others have on a view."""


def _type(name: str, kind: str, dim: int) -> str:
    if name == VECTOR:
        return f"vector({dim})"
    return TYPES.get(kind, "text[]")
