"""An export and user ids in, recommendations out: a Parquet file, or one of each rank."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import read_parquet
from dat_rec.dist.agree import check_same_on_all_ranks, together, wait_for_all_ranks
from dat_rec.errors import UserError
from dat_rec.retrieval.answer import (
    best_items,
    check_k,
    check_own_items,
    user_rows,
    users_at_once,
)
from dat_rec.retrieval.distinct import kinds, row_hashes
from dat_rec.retrieval.divided import DividedRows, equal_bounds, fetch, own_range
from dat_rec.retrieval.exported import ITEMS, MANIFEST, Export, Manifest, check_files, read_manifest
from dat_rec.retrieval.queries import read_queries
from dat_rec.retrieval.ranks import all_ranks, folder_of_all_ranks, one_thread_each
from dat_rec.storage.address import Location, holds
from dat_rec.storage.publish import whole_file, whole_folder
from dat_rec.storage.read import exists, is_folder, open_parquet
from dat_rec.storage.snapshot import local_copy, pinned

PART = "part-{:05}.parquet"
"""Name of a rank's file, where there are several ranks."""


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
    blend_history: bool = False,
    overwrite: bool = False,
) -> Recommended:
    """Write each user's K best items of the whole catalogue, whole or not at all.

    Alone, or on every rank of torchrun: each answers some of the users. Index and tables are
    mapped from the export's files, which the ranks of a host share.

    Args:
        export: folder that ``dat-rec export`` made, or its address.
        k: K, number of items for each user.
        out: Parquet file with user_id, rank (int32, from 1), item_id and score (float32),
            users in the queries' order, ranks rising. On several ranks it is a folder with such a
            file of each rank, part-00000.parquet and so on, in that order together.
        queries: Parquet file of users' ids; without it, all users of the export.
        user_id: the column of ``queries`` that holds them, or several, as store,customer.
        blend_history: rank with each user's own history blended in, by what the export says.
        overwrite: replace ``out`` if it is there.

    Raises:
        UserError: K is not in 1 … items, ``out`` is taken, the export is damaged or has no own
            items to blend in, or the queries are malformed (see read_queries).
    """
    # After a failure what is half-written is removed when the other ranks know of it.
    with ExitStack() as publication, all_ranks():
        with together():
            if rank_and_ranks()[0] == 0:
                _check_place(out, [export, *([queries] if queries else [])], overwrite=overwrite)
            opened, manifest = _opened(export)
            check_k(k, len(opened.item_vectors), "--k")
            if blend_history:
                check_own_items(opened, export)
            known = len(opened.user_ids)
            ids, rows = opened.user_ids, np.arange(known)
            if queries is not None:
                ids = read_queries(queries, user_id, opened.user_ids)
                rows = user_rows(opened, ids)
        facts = [manifest.sha256, hashlib.sha256(rows.data).hexdigest(), k, blend_history, str(out)]
        check_same_on_all_ranks(json.dumps(facts), "the export, the queries or an option")
        try:
            path = _open_place(publication, out, overwrite=overwrite)
            start, stop = own_range(equal_bounds(len(rows)))
            vectors = _vectors(opened, rows, slice(start, stop), users_at_once(opened, k))
            own = Users(ids.slice(start, stop - start), rows[start:stop], vectors)
            _write(opened, k, own, path, blend_history=blend_history)
            wait_for_all_ranks()
            with together():
                publication.close()
        except OSError as error:
            raise UserError(
                f"{out}: cannot be written ({error}): free the disk, or choose another --out"
            ) from error
    return Recommended(len(rows), int(np.count_nonzero(rows == known)))


def _opened(export: Location) -> tuple[Export, Manifest]:
    """Read an export. Ranks that see the same files divide the work of checking them."""
    rank, ranks = rank_and_ranks() if isinstance(export, Path) else (0, 1)
    with local_copy(export, MANIFEST) as local:
        manifest = read_manifest(local)
        check_files(local, manifest, rank, ranks)
        return Export.read(local, manifest.features, manifest.dense), manifest


def _check_place(out: Location, inputs: Sequence[Location], *, overwrite: bool) -> None:
    """Refuse a place where nothing may be written."""
    of_ranks, there, folder = rank_and_ranks()[1] > 1, exists(out), is_folder(out)
    if there and not overwrite:
        raise UserError(f"{out} is already there: name another file, or pass --overwrite")
    if (folder and not of_ranks) or any(holds(one, out) for one in inputs):
        raise UserError(f"--out {out}: a folder, or part of the input: name another file")
    if there and not folder and of_ranks:
        raise UserError(f"--out {out}: a file, and several ranks write a folder: name another one")


def _open_place(publication: ExitStack, out: Location, *, overwrite: bool) -> Path:
    """Return the path that this rank writes to; it is published when the stack is closed."""
    rank, ranks = rank_and_ranks()
    if ranks == 1:
        return publication.enter_context(whole_file(out))
    whole = whole_folder(out, marker=PART.format(0), overwrite=overwrite)
    return folder_of_all_ranks(publication, whole, out) / PART.format(rank)


def _vectors(
    opened: Export, rows: NDArray[np.int64], own: slice, at_once: int
) -> NDArray[np.float32]:
    """(users, D) vectors of this rank's users. Collective: ranks encode different ones.

    Users with equal features are encoded once, in blocks that are the same on any number of ranks.

    Args:
        opened: the export.
        rows: the rows of all users who are answered, in ``opened.user_columns``.
        own: this rank's users, among these.
        at_once: maximum number of users in a block.
    """
    alike = kinds(row_hashes(opened.user_columns))
    asked, position = np.unique(alike.kind[rows], return_inverse=True)
    first, bounds = alike.first[asked], equal_bounds(len(asked), at_once)
    start, stop = own_range(bounds)
    encoded = [np.empty((0, opened.item_vectors.shape[1]), np.float32)]
    with together(), one_thread_each():
        for begin in range(start, stop, at_once):
            block = first[begin : min(begin + at_once, stop)]
            columns = {name: column.take(block) for name, column in opened.user_columns.items()}
            encoded.append(opened.tower.encode(columns))
    wanted, place = np.unique(position[own], return_inverse=True)
    divided = DividedRows(torch.from_numpy(np.concatenate(encoded)), bounds)
    (vectors,) = fetch([(divided, torch.from_numpy(wanted))])
    return vectors.numpy()[place]


class Users(NamedTuple):
    """The B users whom a rank answers."""

    ids: pa.Array
    """(B,)"""
    rows: NDArray[np.int64]
    """(B,) rows of ``user_columns``."""
    vectors: NDArray[np.float32]
    """(B, D)"""


def _write(opened: Export, k: int, users: Users, path: Path, *, blend_history: bool) -> None:
    ids, rows, vectors = users
    block = users_at_once(opened, k)
    item_ids = opened.items.column("item_id").combine_chunks()
    schema = pa.schema(
        {"user_id": ids.type, "rank": pa.int32(), "item_id": item_ids.type, "score": pa.float32()}
    )
    shown = tqdm(
        range(0, len(ids), block), "recommend", unit="block", disable=rank_and_ranks()[0] > 0
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in shown:
            part = slice(start, start + block)
            items, scores = best_items(
                opened, rows[part], vectors[part], k, blend_history=blend_history
            )
            numbers = np.repeat(np.arange(start, start + len(items)), k)
            ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), len(items))
            columns = [
                ids.take(pa.array(numbers)),
                pa.array(ranks),
                item_ids.take(pa.array(items.ravel())),
                pa.array(scores.ravel()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def sample(export: Location, recommendations: Location, users: int = 3, first: int = 5) -> str:
    """The first items of the first few users, with titles, as text.

    Args:
        export: the export that ``recommendations`` came from.
        recommendations: file or folder that ``recommend`` wrote.
        users: number of users to show.
        first: number of items to show of each.
    """
    items = read_parquet(pinned(export, MANIFEST) / ITEMS, ["item_id", "title"])
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
    if isinstance(recommendations, Path):
        of_ranks = recommendations.is_dir()
    else:
        of_ranks = not exists(recommendations)
    if of_ranks:
        first_part = PART.format(0)
        recommendations = pinned(recommendations, first_part) / first_part
    with open_parquet(recommendations) as file:
        for batch in file.iter_batches():
            for row in batch.filter(pc.less_equal(batch.column("rank"), first)).to_pylist():
                seen += row["rank"] == 1
                if seen > users:
                    return found
                found.append(row)
    return found
