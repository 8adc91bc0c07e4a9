"""Milvus, or milvus-lite in a file: a collection, and an alias that is altered."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import VECTOR, Catalogue, as_rows
from dat_rec.publish.store import (
    EF_CONSTRUCTION,
    LEAST_EF,
    LEAST_PROBES,
    Answer,
    Index,
    M,
    check_address,
    lists_of,
    read_secret,
    told,
)

MOST_DIMENSIONS = 32_768
CONNECT_S = 10
LONGEST_TEXT, MOST_TEXTS = 65_535, 4_096
"""Maximum bytes of a text, and number of texts in a list."""
FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
TYPES = {
    "int64": DataType.INT64,
    "double": DataType.DOUBLE,
    "bool": DataType.BOOL,
    "string": DataType.VARCHAR,
}
"""By Arrow's names."""
ERRORS = (MilvusException, OSError, RuntimeError, ValueError)


class Milvus:
    """See ``dat_rec.publish.store.Store``.

    Args:
        name: of the alias.
        uri: the server's, or a file's for milvus-lite.
        token_file: holds the token, ``user:password``; else ``MILVUS_TOKEN`` does, or there is
            none.

    Raises:
        UserError: the server cannot be reached, or refuses the token.
    """

    indexes: tuple[Index, ...] = ("none", "hnsw", "ivf")

    def __init__(self, name: str, uri: str, token_file: Path | None = None) -> None:
        check_address("--uri", uri)
        self._name, self.where = name, f"milvus {uri}"
        self._token = read_secret("MILVUS_TOKEN", token_file)
        # It tells of errors that it raises.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        with self._told():
            self._db = MilvusClient(uri, token=self._token or "", timeout=CONNECT_S)

    def check(self, catalogue: Catalogue, _: Index) -> None:
        """Refuse vectors that are too long, and names that no field can have."""
        if catalogue.dim > MOST_DIMENSIONS:
            raise UserError(
                f"{self.where}: vectors have {catalogue.dim:,} dimensions, and Milvus stores "
                f"{MOST_DIMENSIONS:,} at most: train narrower"
            )
        for field in catalogue.schema:
            if not FIELD_NAME.fullmatch(field.name):
                raise UserError(
                    f"{self.where}: column {field.name!r} cannot be a field's name, which has "
                    "letters, digits and _ alone: rename it in the log"
                )

    def collections(self) -> list[str]:
        """All collections."""
        with self._told():
            return [str(name) for name in self._db.list_collections()]

    def serving(self) -> str | None:
        """What the alias stands for."""
        names = self.collections()
        if self._name in names:
            raise UserError(
                f"{self.where}: {self._name} is a collection, which dat-rec has not made: choose "
                "another --name"
            )
        with self._told():
            for name in names:
                if self._name in self._db.list_aliases(name)["aliases"]:
                    return name
        return None

    def fill(self, collection: str, catalogue: Catalogue) -> None:
        """Insert the items, batch by batch."""
        schema = self._db.create_schema(auto_id=False, enable_dynamic_field=False)
        for field in catalogue.schema:
            more: dict[str, Any] = {"nullable": True}
            kind = TYPES.get(str(field.type), DataType.ARRAY)
            if field.name == "item_id":
                more = {"is_primary": True}
            elif field.name == VECTOR:
                kind, more = DataType.FLOAT_VECTOR, {"dim": catalogue.dim}
            elif kind == DataType.ARRAY:
                more |= {"element_type": DataType.VARCHAR, "max_capacity": MOST_TEXTS}
            if DataType.VARCHAR in (kind, more.get("element_type")):
                more["max_length"] = LONGEST_TEXT
            schema.add_field(field.name, kind, **more)
        with self._told():
            self._db.create_collection(collection, schema=schema)
            for batch in catalogue.batches():
                self._db.insert(collection, as_rows(batch))
            self._db.flush(collection)
            self._index(collection, "FLAT", {})

    def count(self, collection: str) -> int:
        """Count the items."""
        with self._told():
            found = self._db.query(
                collection, output_fields=["count(*)"], consistency_level="Strong"
            )
            return int(found[0]["count(*)"])

    def exact(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By the index of ``fill``, which looks at all items."""
        return self._ask(collection, query_QD, k, {})

    def build(self, collection: str, index: Index, items: int) -> None:
        """Build the index in place of the one of ``fill``."""
        if index == "none":
            return
        with self._told():
            self._db.release_collection(collection)
            self._db.drop_index(collection, VECTOR)
            if index == "hnsw":
                self._index(collection, "HNSW", {"M": M, "efConstruction": EF_CONSTRUCTION})
            else:
                self._index(collection, "IVF_FLAT", {"nlist": lists_of(items)})

    def search(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By the index."""
        return self._ask(collection, query_QD, k, {"ef": max(LEAST_EF, k), "nprobe": LEAST_PROBES})

    def switch(self, collection: str) -> None:
        """Alter the alias."""
        first = self.serving() is None
        with self._told():
            (self._db.create_alias if first else self._db.alter_alias)(collection, self._name)

    def drop(self, collection: str) -> None:
        """Remove the collection."""
        with self._told():
            self._db.drop_collection(collection)

    def close(self) -> None:
        """Let the connection go; of a file, its lock too."""
        with self._told():
            self._db.close()

    def _index(self, collection: str, kind: str, params: dict[str, int]) -> None:
        wanted = self._db.prepare_index_params()
        wanted.add_index(VECTOR, index_type=kind, metric_type="IP", params=params)
        self._db.create_index(collection, wanted)
        self._db.load_collection(collection)

    def _ask(
        self, collection: str, query_QD: NDArray[np.float32], k: int, params: dict[str, int]
    ) -> list[Answer]:
        with self._told():
            found = self._db.search(
                collection,
                data=list(query_QD),
                anns_field=VECTOR,
                limit=k,
                search_params={"metric_type": "IP", "params": params},
                consistency_level="Strong",
            )
            return [
                Answer(
                    [hit["item_id"] for hit in hits], np.array([hit["distance"] for hit in hits])
                )
                for hits in found
            ]

    def _told(self) -> Any:
        return told(self.where, ERRORS, [self._token])
