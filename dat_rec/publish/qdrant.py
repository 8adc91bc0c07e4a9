"""Qdrant: a collection, and an alias; both change hands in one call."""

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import VECTOR, Catalogue
from dat_rec.publish.store import (
    EF_CONSTRUCTION,
    LEAST_EF,
    Answer,
    Index,
    M,
    check_address,
    read_secret,
    told,
)
from dat_rec.retrieval.vector_parts import as_matrix

MOST_DIMENSIONS = 65_536
TIMEOUT_S = 60
POLL_S = 1.0
ERRORS = (ApiException, QdrantException, OSError, RuntimeError, ValueError)


def connect(url: str, api_key_file: Path | None = None) -> tuple[QdrantClient, str | None]:
    """A client of a server, and the key that it uses.

    Args:
        url: the server's.
        api_key_file: holds the key; else ``QDRANT_API_KEY`` does, or there is none.

    Raises:
        UserError: the file cannot be read, or the address holds a secret.
    """
    check_address("--url", url)
    key = read_secret("QDRANT_API_KEY", api_key_file)
    with told(f"qdrant {url}", ERRORS, [key]), warnings.catch_warnings():
        # That a key goes over plain http, which a server on this machine may want.
        warnings.simplefilter("ignore", UserWarning)
        return QdrantClient(url, api_key=key, timeout=TIMEOUT_S, check_compatibility=False), key


class Qdrant:
    """See ``dat_rec.publish.store.Store``.

    Args:
        name: of the alias.
        client: of a server.
        where: its address.
        key: that must not be printed.

    Raises:
        UserError: the server cannot be reached, or refuses the key.
    """

    indexes: tuple[Index, ...] = ("none", "hnsw")

    def __init__(self, name: str, client: QdrantClient, where: str, key: str | None = None) -> None:
        self._name, self._db, self._key = name, client, key
        self.where = f"qdrant {where}"
        self.collections()

    def check(self, catalogue: Catalogue, _: Index) -> None:
        """Refuse vectors that are too long."""
        if catalogue.dim > MOST_DIMENSIONS:
            raise UserError(
                f"{self.where}: vectors have {catalogue.dim:,} dimensions, and Qdrant stores "
                f"{MOST_DIMENSIONS:,} at most: train narrower"
            )

    def collections(self) -> list[str]:
        """All collections."""
        with self._told():
            return [one.name for one in self._db.get_collections().collections]

    def serving(self) -> str | None:
        """What the alias stands for."""
        if self._name in self.collections():
            raise UserError(
                f"{self.where}: {self._name} is a collection, which dat-rec has not made: choose "
                "another --name"
            )
        with self._told():
            aliases = self._db.get_aliases().aliases
        names = (one.collection_name for one in aliases if one.alias_name == self._name)
        return next(names, None)

    def fill(self, collection: str, catalogue: Catalogue) -> None:
        """Upsert the items, batch by batch; a point's id is the item's number, from 0.

        Qdrant's ids are numbers or UUIDs. Nothing is indexed meanwhile (``m=0``).
        """
        params = models.VectorParams(size=catalogue.dim, distance=models.Distance.DOT)
        start = 0
        with self._told():
            self._db.create_collection(
                collection,
                vectors_config=params,
                hnsw_config=models.HnswConfigDiff(m=0),
            )
            for batch in catalogue.batches():
                points = models.Batch(
                    ids=list(range(start, start + batch.num_rows)),
                    vectors=as_matrix(batch.column(VECTOR)).tolist(),
                    payloads=batch.drop_columns([VECTOR]).to_pylist(),
                )
                self._db.upsert(collection, points, wait=True)
                start += batch.num_rows
            whole = catalogue.schema.field("item_id").type == "int64"
            kinds = {
                "item_id": models.PayloadSchemaType.INTEGER
                if whole
                else models.PayloadSchemaType.KEYWORD,
                "category": models.PayloadSchemaType.KEYWORD,
            }
            for field, kind in kinds.items():
                self._db.create_payload_index(collection, field, kind, wait=True)

    def count(self, collection: str) -> int:
        """Count the points."""
        with self._told():
            return int(self._db.count(collection, exact=True).count)

    def exact(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By a look at all points."""
        return self._ask(collection, query_QD, k, models.SearchParams(exact=True))

    def build(self, collection: str, index: Index, _: int) -> None:
        """Let the server build its index, and wait for it."""
        if index == "none":
            return
        with self._told():
            wanted = models.HnswConfigDiff(m=M, ef_construct=EF_CONSTRUCTION)
            self._db.update_collection(collection, hnsw_config=wanted)
            # Yellow: it works; grey: it is about to.
            settled = 0
            while settled < 2:
                status = self._db.get_collection(collection).status
                if status == models.CollectionStatus.RED:
                    raise UserError(f"{self.where}: {collection}: the server cannot index it")
                settled = settled + 1 if status == models.CollectionStatus.GREEN else 0
                time.sleep(POLL_S)

    def search(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By the index."""
        return self._ask(collection, query_QD, k, models.SearchParams(hnsw_ef=max(LEAST_EF, k)))

    def switch(self, collection: str) -> None:
        """Let the alias go and come, in one call."""
        create = models.CreateAlias(collection_name=collection, alias_name=self._name)
        changes: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if self.serving() is not None:
            delete = models.DeleteAlias(alias_name=self._name)
            changes.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        with self._told():
            self._db.update_collection_aliases(changes)

    def drop(self, collection: str) -> None:
        """Remove the collection."""
        with self._told():
            self._db.delete_collection(collection)

    def close(self) -> None:
        """Let the connection go."""
        self._db.close()

    def _ask(
        self,
        collection: str,
        query_QD: NDArray[np.float32],
        k: int,
        params: models.SearchParams,
    ) -> list[Answer]:
        requests = [
            models.QueryRequest(
                query=vector.tolist(), limit=k, params=params, with_payload=["item_id"]
            )
            for vector in query_QD
        ]
        with self._told():
            found = self._db.query_batch_points(collection, requests)
        return [
            Answer(
                [(hit.payload or {})["item_id"] for hit in one.points],
                np.array([hit.score for hit in one.points]),
            )
            for one in found
        ]

    def _told(self) -> Any:
        return told(self.where, ERRORS, [self._key])
