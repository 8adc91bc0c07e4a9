"""``dat-rec publish``: serve an export's items from a vector store."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from tyro.conf import subcommand

from dat_rec.commands.parse import Arguments, parse
from dat_rec.commands.without_pandas import leave_pandas_out
from dat_rec.errors import UserError
from dat_rec.publish.store import Index, Store
from dat_rec.storage.address import Location
from dat_rec.versions import require_torch


@dataclass(frozen=True)
class ParquetOptions:
    """Write the items as Parquet parts, which any store's own loader takes."""

    export: Location
    """Folder of the export that `dat-rec export` made, or its address."""
    out: Location
    """Folder of the parts, or its address: item_id, vector, title, category, train_count, features,
    export."""
    overwrite: bool = False
    """Replace parts of another export that are already in OUT."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """What every store is asked for."""

    export: Location
    """Folder of the export that `dat-rec export` made, or its address."""
    name: str = "items"
    """What readers ask for: a view, an alias, or with LanceDB a table of one row. Collections are
    called NAME_NUMBER_EXPORT_INDEX."""
    index: Index = "none"
    """Index to build; `none` searches exactly. HNSW with 16 links and 200 candidates; IVF with as
    many lists as the root of the number of items. Qdrant has no IVF."""
    k: int = 100
    """Number of items that the queries ask for by which the store is checked before the switch."""
    min_recall: float = 0.9
    """Share of the K best items that the index must find, or readers are not switched to it."""
    keep: int = 1
    """Number of collections to keep of those that served before; older ones are dropped."""


@dataclass(frozen=True, kw_only=True)
class PostgresOptions(StoreOptions):
    """Serve the items from PostgreSQL with pgvector, by a view.

    The server is that of PGHOST, PGDATABASE, PGUSER, PGPASSWORD, PGSERVICE and ~/.pgpass.
    """


@dataclass(frozen=True, kw_only=True)
class QdrantOptions(StoreOptions):
    """Serve the items from Qdrant, by an alias; the key is that of QDRANT_API_KEY."""

    url: str
    """The server's, e.g. http://127.0.0.1:6333."""
    api_key_file: Path | None = None
    """File with the key, in place of QDRANT_API_KEY."""


@dataclass(frozen=True, kw_only=True)
class LanceOptions(StoreOptions):
    """Serve the items from LanceDB, by a table that names the one that serves."""

    uri: str
    """Folder of the database, or its address, e.g. s3://bucket/lance."""


@dataclass(frozen=True, kw_only=True)
class MilvusOptions(StoreOptions):
    """Serve the items from Milvus, by an alias; the token is that of MILVUS_TOKEN."""

    uri: str
    """The server's, e.g. http://127.0.0.1:19530; or a file ending in .db, for milvus-lite."""
    token_file: Path | None = None
    """File with the token, in place of MILVUS_TOKEN."""


STORES: TypeAlias = (
    Annotated[ParquetOptions, subcommand("parquet")]
    | Annotated[PostgresOptions, subcommand("postgres")]
    | Annotated[QdrantOptions, subcommand("qdrant")]
    | Annotated[LanceOptions, subcommand("lancedb")]
    | Annotated[MilvusOptions, subcommand("milvus")]
)


def run(arguments: Arguments) -> None:
    """Publish, and say what serves now."""
    options = parse("publish", STORES, arguments)
    if not isinstance(options, MilvusOptions):
        # Its client needs it.
        leave_pandas_out()
    require_torch()
    if isinstance(options, ParquetOptions):
        _write_parquet(options)
        return
    from dat_rec.publish.publish import publish

    store = connect(options)
    try:
        done = publish(
            options.export,
            store,
            options.name,
            index=options.index,
            k=options.k,
            keep=options.keep,
            min_recall=options.min_recall,
        )
    finally:
        store.close()
    what = f"{done.items:,} items of export {done.export}, {done.dim} dimensions"
    if done.queries:
        print(
            f"{store.where}: {options.name} is {done.collection} now: {what}; {done.queries} "
            f"users' top {done.k} are those of exact search, recall by --index {options.index} "
            f"{done.recall:.4f}"
        )
    else:
        print(f"{store.where}: {options.name} is {done.collection} already: {what}")
    if done.dropped:
        print(f"dropped: {', '.join(done.dropped)}")


def connect(options: StoreOptions) -> Store:
    """The store that the options name.

    Raises:
        UserError: its client is not installed, or it cannot be reached.
    """
    try:
        if isinstance(options, PostgresOptions):
            from dat_rec.publish.postgres import Postgres

            return Postgres(options.name)
        if isinstance(options, QdrantOptions):
            from dat_rec.publish.qdrant import Qdrant
            from dat_rec.publish.qdrant import connect as connect_qdrant

            client, key = connect_qdrant(options.url, options.api_key_file)
            return Qdrant(options.name, client, options.url, key)
        if isinstance(options, LanceOptions):
            # It warns of each table that is new.
            os.environ.setdefault("LANCEDB_LOG", "error")
            from dat_rec.publish.lance import Lance

            return Lance(options.name, options.uri)
        assert isinstance(options, MilvusOptions)
        # milvus-lite's own connection pings itself too often, and says so.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from dat_rec.publish.milvus import Milvus

        return Milvus(options.name, options.uri, options.token_file)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise UserError(
            f"{package} is not installed: pip install 'dat_rec[{EXTRAS[package]}]'"
        ) from error


EXTRAS = {
    "psycopg": "postgres",
    "pgvector": "postgres",
    "qdrant_client": "qdrant",
    "lancedb": "lancedb",
    "pymilvus": "milvus",
}
"""The extra of setup.cfg that brings each client."""


def _write_parquet(options: ParquetOptions) -> None:
    from dat_rec.publish.parquet import write_parquet

    done = write_parquet(options.export, options.out, overwrite=options.overwrite)
    holds = "" if done.new else " already"
    print(
        f"{options.out}: holds{holds} {done.items:,} items of export {done.export}, {done.dim} "
        f"dimensions; {shlex.quote(str(options.out))}/part-*.parquet is what a loader takes"
    )
