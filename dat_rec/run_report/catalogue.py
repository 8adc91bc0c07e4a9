"""A run or its export in, its items with their vectors out, and the vectors of some test users.

What costs time is bounded: without an export a catalogue of at most ``MOST_ITEMS`` is encoded, and
at most ``MOST_USERS`` users are.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dat_rec.data.dataset import Dataset, read_parquet
from dat_rec.errors import UserError
from dat_rec.run_report.run_facts import RunFacts
from dat_rec.storage.address import Location

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
MOST_ITEMS = 200_000
MOST_USERS = 500
MOST_PAIRS = 50_000_000
"""Maximum number of scores, of users times items; 20 users are asked in any case."""
FEWEST_USERS = 20
MOST_LOOKED_AT = 10_000
"""Maximum number of items that are looked at to find a title."""
NO_CATEGORY = "(unknown)"
"""As ``dat-rec evaluate`` calls the category of an item that has none."""


class Asked(NamedTuple):
    """The test interactions of some users, drawn at random, with trained items."""

    query_UD: Floats
    """(U, D) vectors of the users."""
    user: Ints
    """(Q,) of each interaction its user, a row of ``query_UD``."""
    item: Ints
    """(Q,) item_index."""


@dataclass(frozen=True)
class Catalogue:
    """N items."""

    of: str
    """Where the vectors come from, in words."""
    ids: pa.Array
    titles: pa.Array
    """(N,) text, null where there is none."""
    categories: NDArray[Any]
    """(N,) names, as str objects."""
    train_count: Ints
    """(N,) number of training interactions."""
    unit_ND: Floats
    """(N, D) p_v, of length 1."""
    served_NE: Floats
    """(N, E) the same, and what popularity adds to scores behind it."""
    asked: Asked | None
    """None where there is nothing to ask."""
    not_asked: str = ""
    """Why not."""

    @property
    def has_categories(self) -> bool:
        """Whether the dataset names categories."""
        return bool((self.categories != NO_CATEGORY).any())

    @property
    def has_titles(self) -> bool:
        """Whether the dataset names titles: without any, ``prepare`` takes the ids for them."""
        first = (one[:MOST_LOOKED_AT].to_pylist() for one in (self.titles, self.ids))
        some = zip(*first, strict=True)
        return any(title and title != str(item_id) for title, item_id in some)

    def text(self, item: int) -> str:
        """Return an item's title, or its id."""
        return self.titles[item].as_py() or f"item {self.ids[item].as_py()}"


def of_export(run: RunFacts, export: Location) -> Catalogue:
    """Take the vectors of an export, and the test interactions of the run's dataset if it is there.

    Raises:
        UserError: no whole export, or of another dataset than the run's.
    """
    from dat_rec.retrieval.answer import load_export
    from dat_rec.retrieval.exported import ITEMS

    loaded = load_export(export)
    table = read_parquet(export / ITEMS, ["item_id", "title", "category_name", "train_count"])
    schema = run.schema
    if schema is None or (schema.items, schema.users) != (len(table), len(loaded.user_ids)):
        raise UserError(
            f"{export}: has {len(table):,} items and {len(loaded.user_ids):,} users, which "
            f"{run.folder} has not: name the exports in the order of the runs"
        )
    served_NE = np.asarray(loaded.item_vectors)
    asked, why = None, ""
    try:
        rows, user, item = _test(Dataset.open(run.config.data), len(table))
        query_UD = loaded.query_vectors(loaded.user_ids[rows])
        asked = Asked(query_UD, user, item)
    except UserError as error:
        why = str(error)
    return _catalogue(run, f"export {export}", table, served_NE, asked, why)


def of_run(run: RunFacts) -> Catalogue:
    """Encode the catalogue by a checkpoint of the run: that which was evaluated, or the newest.

    Raises:
        UserError: there is no whole checkpoint, the dataset is not where it was, the tower is one
            of the user's own, or the catalogue is too large to be encoded for a report.
    """
    from dat_rec.retrieval.encode import (
        encode_blocks,
        encode_items,
        query_tower,
        user_kinds,
    )
    from dat_rec.retrieval.ranks import all_ranks, one_thread_each
    from dat_rec.retrieval.trained import load_model

    if run.schema is not None and run.schema.items > MOST_ITEMS:
        raise UserError(f"{run.schema.items:,} items are too many to encode for a report")
    with all_ranks(), one_thread_each() as threads:
        trained = load_model(run.folder, None, run.best_checkpoint)
        model, dataset = trained.model, trained.dataset
        table = dataset.table("items", ["item_id", "title", "category_name", "train_count"])
        items = encode_items(model, dataset, threads)
        served_NE = items.rows.local.numpy()[items.kind]
        asked, why = None, ""
        try:
            rows, user, item = _test(dataset, len(table))
            source, alike = user_kinds(dataset, rows)
            first = rows[alike.first]
            blocks = encode_blocks(model, dataset.schema, source, first, query_tower, threads)
            query_KD = np.concatenate([block.vectors.numpy() for block in blocks])
            asked = Asked(query_KD[alike.kind], user, item)
        except UserError as error:
            why = str(error)
    of = f"the checkpoint of step {trained.step:,}"
    return _catalogue(run, of, table, served_NE, asked, why)


def _catalogue(
    run: RunFacts, of: str, table: pa.Table, served_NE: Floats, asked: Asked | None, why: str
) -> Catalogue:
    names = table["category_name"].combine_chunks().fill_null(NO_CATEGORY)
    return Catalogue(
        of=of,
        ids=table["item_id"].combine_chunks(),
        titles=table["title"].combine_chunks(),
        categories=names.to_numpy(zero_copy_only=False),
        train_count=table["train_count"].to_numpy().astype(np.int64),
        unit_ND=served_NE[:, : run.config.model.output_dim],
        served_NE=served_NE,
        asked=asked,
        not_asked=why,
    )


def _test(dataset: Dataset, items: int) -> tuple[Ints, Ints, Ints]:
    """Return (U,) rows of users, rising, and of their (Q,) test interactions user and item.

    Raises:
        UserError: the dataset cannot be read, or holds nothing out that training knows.
    """
    test = dataset.table("test", ["user_row", "item_index"])
    user, item = (test[name].to_numpy().astype(np.int64) for name in test.column_names)
    trained = dataset.table("users", ["trained"])["trained"].to_numpy()
    known = trained[user] & (item < dataset.schema.trained_items)
    user, item = user[known], item[known]
    if not len(user):
        raise UserError(f"{dataset.folder}: the test has no interaction that training knows")
    users = np.unique(user)
    most = max(FEWEST_USERS, min(MOST_USERS, MOST_PAIRS // items))
    if len(users) > most:
        users = np.sort(np.random.default_rng(0).choice(users, most, replace=False))
    place = np.searchsorted(users, user)
    kept = np.append(users, -1)[place] == user
    return users, place[kept], item[kept]
