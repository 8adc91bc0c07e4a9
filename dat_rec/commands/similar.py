"""``dat-rec similar``: write the items that are nearest to each item, from an export."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.commands.restrict import SEVERAL, quotas, said
from dat_rec.commands.without_pandas import leave_pandas_out
from dat_rec.storage.address import Address, Location, location
from dat_rec.versions import require_torch


@dataclass(frozen=True)
class SimilarOptions:
    """Write the K nearest items of each item as Parquet: item_id, rank, similar_item_id, score."""

    export: Location
    """Folder of the export that `dat-rec export` made, or its address."""
    out: Location
    """Parquet file to write; under torchrun with several ranks, a folder with a file of each."""
    items: tuple[str, ...] = ()
    """Parquet file with the item_id of the items that are asked about, or their ids themselves;
    without it, all items."""
    k: int = 10
    """Number of items for each; fewer where no more may be shown."""
    filter: str | None = None
    """SQL over columns of items, true of those that may be shown, e.g. "price < 20 AND category =
    'TOYS'"."""
    item_table: Location | None = None
    """Parquet file with item_id and columns that are fresher than the export's, or new, e.g.
    stock."""
    allow: Location | None = None
    """Parquet file with the item_id of all items that may be shown."""
    quota: tuple[str, ...] = ()
    """COLUMN=N …: at most N items of each value of the column in a list, e.g. category=3."""
    exact: bool = False
    """Score all items, also where the export has an approximate index."""
    overwrite: bool = False
    """Replace a file that is already at OUT."""


def run(arguments: Arguments) -> None:
    """Write the lists; the first rank prints what was written."""
    refuse_repeated(arguments, SEVERAL)
    options: SimilarOptions = parse("similar", SimilarOptions, arguments)
    quota = quotas(options.quota)
    items = asked(options.items)
    leave_pandas_out()
    require_torch()
    from dat_rec.retrieval.restrictions import Restrictions
    from dat_rec.retrieval.similar import similar

    done = similar(
        options.export,
        options.k,
        options.out,
        items,
        restrictions=Restrictions(
            filter=options.filter,
            item_table=options.item_table,
            allow=options.allow,
            quotas=quota,
        ),
        overwrite=options.overwrite,
        exact=options.exact,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    most = "up to " if done.fewer else ""
    print(f"{options.out}: {most}{options.k} items for each of {done.items:,} items")
    if done.by:
        print(f"found by the {done.by}; --exact scores all items")
    for line in said(done.unknown_allowed, options.allow, done.fewer, "items", options.k):
        print(line)


def asked(words: Sequence[str]) -> Location | Sequence[str] | None:
    """The file or the ids that words mean; None for no words.

    One word is a file if there is one of that name, if it ends in .parquet, or is an address.
    """
    if len(words) == 1:
        where = location(words[0])
        if isinstance(where, Address) or where.exists() or where.suffix == ".parquet":
            return where
    return words or None
