"""An export and ids of items in, the nearest items to each out: a Parquet file, or several."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.dist.agree import all_gather_object, check_same_on_all_ranks, together
from dat_rec.errors import UserError
from dat_rec.retrieval.answer import check_k
from dat_rec.retrieval.divided import equal_bounds, own_range
from dat_rec.retrieval.item_table import ID, read_columns
from dat_rec.retrieval.list_place import check_place, open_place
from dat_rec.retrieval.lists import list_schema, write_lists
from dat_rec.retrieval.queries import as_ids, once
from dat_rec.retrieval.ranks import all_ranks
from dat_rec.retrieval.recommender import SIMILAR_ID, Recommender
from dat_rec.retrieval.restricted_lists import ann_of_items, similar_lists
from dat_rec.retrieval.restrictions import ALL_ITEMS, Restrictions
from dat_rec.storage.address import Address, Location
from dat_rec.storage.snapshot import pinned_file


class Similar(NamedTuple):
    """What ``similar`` did."""

    items: int
    """Number of items whose nearest were asked for."""
    fewer: int
    """Number of items with fewer than K, since no more may be shown."""
    unknown_allowed: int
    """Number of ids in the allowed list that the export does not know."""
    by: str = ""
    """The approximate index that has found the lists; empty: all items were scored."""


def similar(
    export: Location,
    k: int,
    out: Location,
    items: Location | Sequence[str] | None = None,
    *,
    restrictions: Restrictions = ALL_ITEMS,
    overwrite: bool = False,
    exact: bool = False,
) -> Similar:
    """Write the K items that are nearest to each item, as ``Recommender.similar`` has them.

    Alone, or on every rank of torchrun, as ``recommend``; whole or not at all.

    Args:
        export: folder that ``dat-rec export`` made, or its address.
        k: K, less than the number of items.
        out: Parquet file with item_id, rank (int32, from 1), similar_item_id and score (float32);
            on several ranks a folder with a file of each.
        items: ids as text, or a Parquet file with ``item_id``; None: all items.
        restrictions: what lists may hold, of items alone.
        overwrite: replace ``out`` if it is there.
        exact: score all items, also where the export has an approximate index.

    Raises:
        UserError: K is not in 1 … items − 1, ``out`` is taken, the export is damaged, an id is of
            no item, or a restriction is malformed.
    """
    with ExitStack() as publication, all_ranks():
        with together():
            if rank_and_ranks()[0] == 0:
                given = (export, items, restrictions.item_table, restrictions.allow)
                inputs = [one for one in given if isinstance(one, Path | Address)]
                check_place(out, inputs, overwrite=overwrite)
            recommender = Recommender.open(export)
            check_k(k, len(recommender.item_ids) - 1, "--k")
            rows = recommender.item_rows(_ids(items, recommender))
            rules = recommender.item_rules(restrictions)
        digest = hashlib.sha256(rows.data).hexdigest()
        facts = [recommender.manifest.sha256, digest, k, str(out), rules.digest()]
        facts += [repr(restrictions), exact]
        check_same_on_all_ranks(json.dumps(facts), "the export, the items or an option")
        try:
            path = open_place(publication, out, overwrite=overwrite)
            start, stop = own_range(equal_bounds(len(rows)))
            kind = recommender.item_ids.type
            fewer = write_lists(
                similar_lists(recommender.export, rows[start:stop], k, rules, exact=exact),
                k,
                recommender.item_ids.take(rows[start:stop]),
                recommender.item_ids,
                list_schema(ID, kind, SIMILAR_ID, kind),
                path,
                "similar",
            )
            fewer = sum(all_gather_object(fewer))
            with together():
                publication.close()
        except OSError as error:
            raise UserError(
                f"{out}: cannot be written ({error}): free the disk, or choose another --out"
            ) from error
    ann = ann_of_items(recommender.export, k, rules, exact=exact)
    by = "" if ann is None else str(ann.facts)
    return Similar(len(rows), fewer, rules.unknown, by)


def _ids(items: Location | Sequence[str] | None, recommender: Recommender) -> pa.Array | None:
    """The ids that are meant, of a file or of words.

    Raises:
        UserError: a word is no such id, or an id stands twice.
    """
    kind = recommender.item_ids.type
    if isinstance(items, Path | Address):
        path = pinned_file(items)
        column = read_columns(path, [ID], str(path))[ID].combine_chunks()
        return once(as_ids(path, ID, column, kind, ID), path, ID, "item")
    if items is None:
        return None
    try:
        return once(pa.array(items, pa.string()).cast(kind), "--items", ID, "item")
    except pa.ArrowInvalid as error:
        raise UserError(
            f"--items {' '.join(items)}: no file, and the export's item_id is {kind}: name a file "
            "or such ids"
        ) from error
