"""An export and a store in, the export served from the store out; or the one of before.

A new collection is filled beside the one that serves. It must answer real users' queries as exact
search does, before and after its index is built. Then readers are switched to it, at once, and
older ones are dropped. Whatever ends this half-way leaves the old one serving, and the next start
removes what was left.
"""

from contextlib import suppress
from typing import NamedTuple

from dat_rec.errors import UserError
from dat_rec.publish.catalogue import Catalogue
from dat_rec.publish.check import best_items, check_answers
from dat_rec.publish.store import NAME, Collection, Index, Store
from dat_rec.storage.address import Location


class Published(NamedTuple):
    """What ``publish`` did."""

    collection: str
    """That serves now."""
    items: int
    dim: int
    export: str
    """Digest of the export."""
    queries: int
    """How many were compared with exact search; 0 where the collection served already."""
    k: int
    """Number of items of each."""
    recall: float
    """Recall@K of the index."""
    dropped: tuple[str, ...]
    """Collections that were removed."""


def publish(
    export: Location,
    store: Store,
    name: str,
    *,
    index: Index = "none",
    k: int = 100,
    keep: int = 1,
    min_recall: float = 0.9,
) -> Published:
    """Serve the items of an export from a store.

    Args:
        export: folder of an export, or its address.
        store: an alias in a store.
        name: of the alias.
        index: that is built.
        k: K, number of items that queries ask for when the collection is checked.
        keep: number of collections that are kept of those that served before.
        min_recall: what the index must reach of exact search's K items.

    Raises:
        UserError: an option is malformed, the export is damaged, the store refuses or cannot be
            reached, or its answers are not those of exact search. Then readers see what they saw
            before.
    """
    check_options(store, name, index, k, keep, min_recall)
    with Catalogue.open(export) as catalogue:
        store.check(catalogue, index)
        serving = _serving(store, name)
        done = serving is not None and (serving.export, serving.built) == (catalogue.digest, index)
        queries, recall = 0, 1.0
        k = min(k, catalogue.items)
        if serving is None or not done or store.count(serving.name) != catalogue.items:
            last = 0 if serving is None else serving.number
            for one in _own(store, name):
                # It has never served: numbers rise.
                if one.number > last:
                    store.drop(one.name)
            new = f"{name}_{last + 1:04}_{catalogue.digest}_{index}"
            try:
                queries, recall = _make(store, new, catalogue, index, k, min_recall)
                store.switch(new)
            except BaseException:
                # What was not switched to is nothing to keep; the first error is the one to tell.
                with suppress(UserError):
                    if store.serving() != new:
                        store.drop(new)
                raise
            serving = Collection(new, last + 1, catalogue.digest, index)
        dropped = _drop_old(store, name, serving, keep)
        return Published(
            serving.name,
            catalogue.items,
            catalogue.dim,
            catalogue.digest,
            queries,
            k,
            recall,
            dropped,
        )


def check_options(
    store: Store, name: str, index: Index, k: int, keep: int, min_recall: float
) -> None:
    """Refuse options that no store takes, or not this one.

    Raises:
        UserError: names the option.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"--name {name}: it must be a small letter, then small letters, digits and _, at most "
            "31 together"
        )
    if index not in store.indexes:
        raise UserError(f"--index {index}: this store has {', '.join(store.indexes)}")
    if k < 1:
        raise UserError(f"--k {k}: it must be 1 or more")
    if keep < 0:
        raise UserError(f"--keep {keep}: it must be 0 or more")
    if not 0 <= min_recall <= 1:
        raise UserError(f"--min-recall {min_recall}: it must be in 0 … 1")


def _make(
    store: Store, new: str, catalogue: Catalogue, index: Index, k: int, min_recall: float
) -> tuple[int, float]:
    """Fill a collection and build its index, both checked; return queries and recall."""
    store.fill(new, catalogue)
    where = f"{store.where}: {new}"
    if (found := store.count(new)) != catalogue.items:
        raise UserError(f"{where}: holds {found:,} items, and the export {catalogue.items:,}")
    query_QD = catalogue.queries()
    best = best_items(catalogue, query_QD, k)
    answers = store.exact(new, query_QD, k)
    check_answers(f"{where}, exact search", catalogue, best, answers, exact=True)
    store.build(new, index, catalogue.items)
    answers = store.search(new, query_QD, k)
    recall = check_answers(f"{where}, --index {index}", catalogue, best, answers, exact=False)
    if recall < min_recall:
        raise UserError(
            f"{where}: --index {index} finds {recall:.4f} of the {k} best items, and --min-recall "
            f"is {min_recall}: take another index, or --index none"
        )
    return len(query_QD), recall


def _own(store: Store, name: str) -> list[Collection]:
    """The alias's collections, the oldest first."""
    found = (Collection.of(one, name) for one in store.collections())
    return sorted((one for one in found if one), key=lambda one: one.number)


def _serving(store: Store, name: str) -> Collection | None:
    collection = store.serving()
    if collection is None:
        return None
    serving = Collection.of(collection, name)
    if serving is None:
        raise UserError(
            f"{store.where}: {name} stands for {collection}, which dat-rec has not made: choose "
            "another --name"
        )
    return serving


def _drop_old(store: Store, name: str, serving: Collection, keep: int) -> tuple[str, ...]:
    """Remove what has served before, but for the newest."""
    old = [one.name for one in _own(store, name) if one.number < serving.number]
    dropped = old[: len(old) - keep] if keep else old
    for one in dropped:
        store.drop(one)
    return tuple(dropped)
