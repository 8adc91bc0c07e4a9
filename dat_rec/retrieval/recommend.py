"""An export and user ids in, a Parquet file of recommendations out."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from dat_rec.data.dataset import read_parquet
from dat_rec.errors import UserError
from dat_rec.retrieval.answer import check_k, query_vectors, user_rows, users_at_once
from dat_rec.retrieval.exported import MANIFEST, Export
from dat_rec.retrieval.queries import read_queries
from dat_rec.retrieval.search import top_items
from dat_rec.storage.address import Location, holds
from dat_rec.storage.publish import whole_file
from dat_rec.storage.read import exists, open_parquet
from dat_rec.storage.snapshot import pinned


class Recommended(NamedTuple):
    """What ``recommend`` did."""

    users: int
    """Number of users who got an answer."""
    unknown: int
    """Number of users that the export does not know: they are answered as users without a past."""


def recommend(
    export: Location,
    k: int,
    out: Location,
    queries: Location | None = None,
    *,
    user_id: str = "user_id",
    overwrite: bool = False,
) -> Recommended:
    """Write each user's K best items of the whole catalogue, whole or not at all.

    Args:
        export: folder that ``dat-rec export`` made, or its address.
        k: K, number of items for each user.
        out: Parquet file with user_id, rank (int32, from 1), item_id and score (float32),
            users in the queries' order, ranks rising.
        queries: Parquet file of users' ids; without it, all users of the export.
        user_id: the column of ``queries`` that holds them.
        overwrite: replace ``out`` if it is there.

    Raises:
        UserError: K is not in 1 … items, ``out`` is taken, the export is damaged, or the
            queries are malformed (see read_queries).
    """
    if exists(out) and not overwrite:
        raise UserError(f"{out} is already there: name another file, or pass --overwrite")
    inputs = [export, *([queries] if queries else [])]
    if (isinstance(out, Path) and out.is_dir()) or any(holds(one, out) for one in inputs):
        raise UserError(f"--out {out}: a folder, or part of the input: name another file")
    opened = Export.open(export)
    check_k(k, len(opened.item_vectors), "--k")
    known = len(opened.user_ids)
    ids, rows = opened.user_ids, np.arange(known)
    if queries is not None:
        ids = read_queries(queries, user_id, opened.user_ids.type)
        rows = user_rows(opened, ids)
    try:
        with whole_file(out) as partial:
            _write(opened, k, ids, rows, partial)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error}): free the disk, or choose another --out"
        ) from error
    return Recommended(len(rows), int(np.count_nonzero(rows == known)))


def _write(opened: Export, k: int, ids: pa.Array, rows: NDArray[np.int64], path: Path) -> None:
    block = users_at_once(opened, k)
    item_ids = opened.items.column("item_id").combine_chunks()
    vectors = query_vectors(opened, rows, block)
    schema = pa.schema(
        {"user_id": ids.type, "rank": pa.int32(), "item_id": item_ids.type, "score": pa.float32()}
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in tqdm(range(0, len(rows), block), desc="recommend", unit="block"):
            query_BD = vectors[start : start + block]
            items, scores = top_items(opened.index, opened.item_vectors, query_BD, k)
            users = np.repeat(np.arange(start, start + len(query_BD)), k)
            ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), len(query_BD))
            columns = [
                ids.take(pa.array(users)),
                pa.array(ranks),
                item_ids.take(pa.array(items.ravel())),
                pa.array(scores.ravel()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def sample(export: Location, recommendations: Location, users: int = 3, first: int = 5) -> str:
    """The first items of the first few users, with titles, as text.

    Args:
        export: the export that ``recommendations`` came from.
        recommendations: file that ``recommend`` wrote.
        users: number of users to show.
        first: number of items to show of each.
    """
    items = read_parquet(pinned(export, MANIFEST) / "items.parquet", ["item_id", "title"])
    item_ids = items.column("item_id").combine_chunks()
    lines: list[str] = []
    for row in _first_rows(recommendations, users, first):
        if row["rank"] == 1:
            lines.append(f"user {row['user_id']}")
        position = pc.index(item_ids, row["item_id"]).as_py()
        title = items.column("title")[position].as_py() or f"item {row['item_id']}"
        lines.append(f"  {row['rank']:>3}  {row['score']:>7.4f}  {title}")
    return "\n".join(lines)


def _first_rows(recommendations: Location, users: int, first: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    seen = 0
    with open_parquet(recommendations) as file:
        for batch in file.iter_batches():
            for row in batch.filter(pc.less_equal(batch.column("rank"), first)).to_pylist():
                seen += row["rank"] == 1
                if seen > users:
                    return found
                found.append(row)
    return found
