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

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.data.dataset import read_parquet
from dat_rec.dist.agree import all_gather_object, check_same_on_all_ranks, together
from dat_rec.retrieval.answer import check_k, check_own_items, user_rows, users_at_once
from dat_rec.retrieval.distinct import kinds, row_hashes
from dat_rec.retrieval.divided import DividedRows, equal_bounds, fetch, own_range
from dat_rec.retrieval.exported import ITEMS, MANIFEST, Export
from dat_rec.retrieval.item_table import ID
from dat_rec.retrieval.list_place import PART, check_place, open_place, writing
from dat_rec.retrieval.lists import list_schema, vectors_table, write_lists
from dat_rec.retrieval.queries import read_queries
from dat_rec.retrieval.ranks import all_ranks, one_thread_each
from dat_rec.retrieval.recommender import Recommender
from dat_rec.retrieval.restricted_lists import ann_of_users, user_lists
from dat_rec.retrieval.restrictions import ALL_ITEMS, ItemRules, Restrictions, UserRules
from dat_rec.storage.address import Address, Location
from dat_rec.storage.read import exists, open_parquet
from dat_rec.storage.snapshot import pinned, pinned_file

VECTORS_OUT = "--vectors-out"


class Recommended(NamedTuple):
    """What ``recommend`` did."""

    users: int
    """Number of users who got an answer."""
    unknown: int
    """Number of users that the export does not know: they are answered as users without a past."""
    fewer: int = 0
    """Number of users who got fewer than K items, since no more may be shown."""
    unknown_allowed: int = 0
    """Number of ids in the allowed list that the export does not know."""
    by: str = ""
    """The approximate index that has found the lists; empty: all items were scored."""


def recommend(
    export: Location,
    k: int,
    out: Location,
    queries: Location | None = None,
    *,
    user_id: str = "user_id",
    blend_history: bool = False,
    restrictions: Restrictions = ALL_ITEMS,
    vectors_out: Location | None = None,
    overwrite: bool = False,
    exact: bool = False,
) -> Recommended:
    """Write each user's K best items of those that may be shown, whole or not at all.

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
        restrictions: what lists may hold; by default the whole catalogue. A user who may be shown
            fewer than K items has fewer rows. Columns of a per-user filter are those of
            ``queries``.
        vectors_out: where to write the users' vectors too: user_id, and vector, D float32.
        overwrite: replace ``out`` and ``vectors_out`` if they are there.
        exact: score all items, also where the export has an approximate index.

    Raises:
        UserError: K is not in 1 … items, ``out`` is taken, the export is damaged or lacks what an
            option needs, the queries are malformed (see read_queries), or a restriction is.
    """
    # After a failure what is half-written is removed when the other ranks know of it.
    with ExitStack() as publication, all_ranks():
        with together():
            if rank_and_ranks()[0] == 0:
                _check_places(out, vectors_out, [export, *_files(queries, restrictions)], overwrite)
            recommender = Recommender.open(export)
            opened = recommender.export
            check_k(k, len(opened.item_vectors), "--k")
            if blend_history:
                check_own_items(opened, export)
            known = len(opened.user_ids)
            ids, rows = opened.user_ids, np.arange(known)
            if queries is not None:
                queries = pinned_file(queries)
                ids = read_queries(queries, user_id, opened.user_ids)
                rows = user_rows(opened, ids)
            start, stop = own_range(equal_bounds(len(rows)))
            rules = recommender.item_rules(restrictions)
            own = recommender.user_rules(
                restrictions,
                rules,
                ids.slice(start, stop - start),
                rows[start:stop],
                queries,
                user_id=user_id,
                first=start,
            )
        digest = hashlib.sha256(rows.data).hexdigest()
        facts = [recommender.manifest.sha256, digest, k, blend_history, str(out), str(vectors_out)]
        facts += [rules.digest(), repr(restrictions), exact]
        check_same_on_all_ranks(json.dumps(facts), "the export, the queries or an option")
        with writing(out):
            path = open_place(publication, out, overwrite=overwrite)
        if vectors_out is not None:
            with writing(vectors_out, VECTORS_OUT):
                vectors_path = open_place(
                    publication, vectors_out, overwrite=overwrite, option=VECTORS_OUT
                )
        vectors = _vectors(opened, rows, slice(start, stop), users_at_once(opened, k))
        users = Users(ids.slice(start, stop - start), own, vectors)
        if vectors_out is not None:
            with writing(vectors_out, VECTORS_OUT):
                pq.write_table(vectors_table(users.ids, vectors, opened.model_id), vectors_path)
        with writing(out):
            fewer = _write(
                recommender, k, users, rules, path, blend_history=blend_history, exact=exact
            )
        fewer = sum(all_gather_object(fewer))
        with together():
            publication.close()
    unknown = int(np.count_nonzero(rows == known))
    ann = ann_of_users(opened, k, rules, own, exact=exact)
    by = "" if ann is None else str(ann.facts)
    return Recommended(len(rows), unknown, fewer, rules.unknown, by)


def _check_places(
    out: Location, vectors_out: Location | None, inputs: Sequence[Location], overwrite: bool
) -> None:
    check_place(out, inputs, overwrite=overwrite)
    if vectors_out is not None:
        inputs = [*inputs, out]
        check_place(vectors_out, inputs, overwrite=overwrite, option=VECTORS_OUT)


def _files(queries: Location | None, restrictions: Restrictions) -> list[Location]:
    """What is read beside the export."""
    given = (queries, restrictions.exclude, restrictions.item_table, restrictions.allow)
    return [one for one in given if isinstance(one, Path | Address)]


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
    rules: UserRules
    vectors: NDArray[np.float32]
    """(B, D)"""


def _write(
    recommender: Recommender,
    k: int,
    users: Users,
    rules: ItemRules,
    path: Path,
    *,
    blend_history: bool,
    exact: bool,
) -> int:
    """Write the lists, block by block; return how many users have fewer than K items."""
    schema = list_schema("user_id", users.ids.type, ID, recommender.item_ids.type)
    blocks = user_lists(
        recommender.export,
        users.vectors,
        k,
        rules,
        users.rules,
        blend_history=blend_history,
        exact=exact,
    )
    return write_lists(blocks, k, users.ids, recommender.item_ids, schema, path, "recommend")


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
