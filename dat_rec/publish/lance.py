"""LanceDB: a collection is a table, and the alias is a table of one row, which names it.

LanceDB has no aliases, and its open-source tables cannot be renamed. A table's own versions would
do, but whoever opens the table without a tag sees the newest one, half-built. The pointer is
replaced by one commit, which a reader sees or not, on a disk and in an object store.
"""

import warnings
from typing import Any, Literal

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswFlat, IvfFlat
from lancedb.query import LanceVectorQueryBuilder
from lancedb.table import Table
from numpy.typing import NDArray

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import EXPORT, VECTOR, Catalogue
from dat_rec.publish.store import (
    EF_CONSTRUCTION,
    LEAST_EF,
    LEAST_PROBES,
    Answer,
    Index,
    M,
    check_address,
    lists_of,
    told,
)

POINTER = pa.schema([("table", pa.string()), (EXPORT, pa.string())])
ERRORS = (OSError, RuntimeError, ValueError, NotImplementedError)
DOT: Literal["dot"] = "dot"


class Lance:
    """See ``dat_rec.publish.store.Store``.

    Args:
        name: of the pointer.
        uri: a folder, or the address of a store.

    Raises:
        UserError: the place cannot be read.
    """

    indexes: tuple[Index, ...] = ("none", "hnsw", "ivf")

    def __init__(self, name: str, uri: str) -> None:
        check_address("--uri", uri)
        self._name, self.where = name, f"lancedb {uri}"
        with self._told():
            self._db = lancedb.connect(uri)
            self.collections()

    def check(self, _: Catalogue, __: Index) -> None:
        """LanceDB holds what an export has."""

    def collections(self) -> list[str]:
        """The tables."""
        names: list[str] = []
        with self._told(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            # Pages of a hundred names.
            while page := list(self._db.table_names(names[-1] if names else None, 100)):
                names += page
        return names

    def serving(self) -> str | None:
        """What the pointer names."""
        if self._name not in self.collections():
            return None
        with self._told():
            pointer = self._db.open_table(self._name)
            if not pointer.schema.equals(POINTER) or pointer.count_rows() != 1:
                raise UserError(
                    f"{self.where}: {self._name} is there, and dat-rec has not made it: choose "
                    "another --name"
                )
            return str(pointer.to_arrow()["table"][0])

    def fill(self, collection: str, catalogue: Catalogue) -> None:
        """Write the items into a new table, by one commit."""
        reader = pa.RecordBatchReader.from_batches(catalogue.schema, catalogue.batches())
        with self._told():
            self._db.create_table(collection, reader)

    def count(self, collection: str) -> int:
        """Count the rows."""
        with self._told():
            return int(self._db.open_table(collection).count_rows())

    def exact(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By a scan of the table."""
        with self._told():
            table = self._db.open_table(collection)
            return [_answer(_query(table, one).bypass_vector_index(), k) for one in query_QD]

    def build(self, collection: str, index: Index, items: int) -> None:
        """Build the index; both keep whole vectors, so that scores stay exact."""
        config: HnswFlat | IvfFlat
        if index == "none":
            return
        if index == "hnsw":
            config = HnswFlat(distance_type=DOT, m=M, ef_construction=EF_CONSTRUCTION)
        else:
            config = IvfFlat(distance_type=DOT, num_partitions=lists_of(items))
        with self._told():
            self._db.open_table(collection).create_index(VECTOR, config=config)

    def search(self, collection: str, query_QD: NDArray[np.float32], k: int) -> list[Answer]:
        """By the index."""
        with self._told():
            table = self._db.open_table(collection)
            return [
                _answer(_query(table, one).nprobes(LEAST_PROBES).ef(max(LEAST_EF, k)), k)
                for one in query_QD
            ]

    def switch(self, collection: str) -> None:
        """Replace the pointer."""
        with self._told():
            digest = self._db.open_table(collection).search().limit(1).to_arrow()[EXPORT][0]
            row = pa.table([[collection], [digest.as_py()]], schema=POINTER)
            self._db.create_table(self._name, row, mode="overwrite")

    def drop(self, collection: str) -> None:
        """Remove the table."""
        with self._told():
            self._db.drop_table(collection)

    def close(self) -> None:
        """There is no connection."""

    def _told(self) -> Any:
        return told(self.where, ERRORS)


def _query(table: Table, vector: NDArray[np.float32]) -> LanceVectorQueryBuilder:
    """Without the metric LanceDB takes L2, or whatever an index was made with."""
    query = table.search(vector, vector_column_name=VECTOR)
    assert isinstance(query, LanceVectorQueryBuilder)
    return query.distance_type(DOT)


def _answer(query: LanceVectorQueryBuilder, k: int) -> Answer:
    found = query.select(["item_id", "_distance"]).limit(k).to_arrow()
    distances = found["_distance"].to_numpy().astype(np.float64)
    return Answer(found["item_id"].to_pylist(), 1 - distances)
