"""``dat-rec recommend``: write the best items of each user, from an export."""

import os
from dataclasses import dataclass

from dat_rec.commands.parse import Arguments, parse
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
    """Number of items to recommend to each user."""
    queries: Location | None = None
    """Parquet file with the ids of the users to recommend to; without it, all known users."""
    user_id: str = "user_id"
    """Column of QUERIES with the users' ids; or several that make one together, e.g.
    store,customer."""
    blend_history: bool = False
    """Rank with each user's own history blended in, as `evaluate --blend-history` does; for an
    export of `dat-rec export --blend-history`."""
    overwrite: bool = False
    """Replace a file that is already at OUT."""
    show: int = 0
    """Number of users whose first items are printed."""


def run(arguments: Arguments) -> None:
    """Write the recommendations; the first rank prints what was written."""
    options: RecommendOptions = parse("recommend", RecommendOptions, arguments)
    leave_pandas_out()
    require_torch()
    from dat_rec.retrieval.recommend import recommend, sample

    done = recommend(
        options.export,
        options.k,
        options.out,
        options.queries,
        user_id=options.user_id,
        blend_history=options.blend_history,
        overwrite=options.overwrite,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    unknown = f", {done.unknown:,} of them unknown" if done.unknown else ""
    print(f"{options.out}: {options.k} items for each of {done.users:,} users{unknown}")
    if options.show:
        print(sample(options.export, options.out, options.show))
