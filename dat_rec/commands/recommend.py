"""``dat-rec recommend``: write the best items of each user, from an export."""

import os
from dataclasses import dataclass

from dat_rec.commands.parse import Arguments, parse, refuse_repeated
from dat_rec.commands.restrict import SEVERAL, quotas, said
from dat_rec.commands.without_pandas import leave_pandas_out
from dat_rec.storage.address import Location
from dat_rec.versions import require_torch


@dataclass(frozen=True)
class RecommendOptions:
    """Write the K best items of each user as Parquet: user_id, rank, item_id, score."""

    export: Location
    """Folder of the export that `dat-rec export` made, or its address."""
    out: Location
    """Parquet file to write; under torchrun with several ranks, a folder with a file of each."""
    k: int = 100
    """Number of items to recommend to each user; fewer where no more may be shown."""
    queries: Location | None = None
    """Parquet file with the ids of the users to recommend to; without it, all known users."""
    user_id: str = "user_id"
    """Column of QUERIES with the users' ids; or several that make one together, e.g.
    store,customer."""
    blend_history: bool = False
    """Rank with each user's own history blended in, as `evaluate --blend-history` does; for an
    export of `dat-rec export --blend-history`."""
    exclude_seen: bool = False
    """Leave out the items that a user had in training."""
    exclude: Location | None = None
    """Parquet file with pairs of user_id and item_id to leave out, e.g. what was bought since."""
    filter: str | None = None
    """SQL over columns of items, true of those that may be shown, e.g. "price < 20 AND category =
    'TOYS'"."""
    item_table: Location | None = None
    """Parquet file with item_id and columns that are fresher than the export's, or new, e.g.
    stock."""
    allow: Location | None = None
    """Parquet file with the item_id of all items that may be shown."""
    per_user_filter: str | None = None
    """SQL over columns of items and of QUERIES, e.g. "item.region = user.region"."""
    quota: tuple[str, ...] = ()
    """COLUMN=N …: at most N items of each value of the column in a user's list, e.g. category=10;
    with several quotas an item is taken, best first, where all of them let it in."""
    vectors_out: Location | None = None
    """Parquet file to write the users' vectors to: user_id, vector."""
    exact: bool = False
    """Score all items, also where the export has an approximate index."""
    overwrite: bool = False
    """Replace a file that is already at OUT."""
    show: int = 0
    """Number of users whose first items are printed."""


def run(arguments: Arguments) -> None:
    """Write the recommendations; the first rank prints what was written."""
    refuse_repeated(arguments, SEVERAL)
    options: RecommendOptions = parse("recommend", RecommendOptions, arguments)
    quota = quotas(options.quota)
    leave_pandas_out()
    require_torch()
    from dat_rec.retrieval.recommend import recommend, sample
    from dat_rec.retrieval.restrictions import Restrictions

    done = recommend(
        options.export,
        options.k,
        options.out,
        options.queries,
        user_id=options.user_id,
        blend_history=options.blend_history,
        restrictions=Restrictions(
            options.exclude_seen,
            options.exclude,
            options.filter,
            options.item_table,
            options.allow,
            options.per_user_filter,
            quota,
        ),
        vectors_out=options.vectors_out,
        overwrite=options.overwrite,
        exact=options.exact,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    unknown = f", {done.unknown:,} of them unknown" if done.unknown else ""
    most = "up to " if done.fewer else ""
    print(f"{options.out}: {most}{options.k} items for each of {done.users:,} users{unknown}")
    if done.by:
        print(f"found by the {done.by}; --exact scores all items")
    for line in said(done.unknown_allowed, options.allow, done.fewer, "users", options.k):
        print(line)
    if options.vectors_out:
        print(f"{options.vectors_out}: the vectors of these users")
    if options.show and (shown := sample(options.export, options.out, options.show)):
        print(shown)
