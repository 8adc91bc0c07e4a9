"""Item vectors and real queries in, the approximate index that reaches a recall out, or a refusal.

Recall@K is the mean share, over queries, of the exact search's K best items that are found. The
numbers that it goes by (``kinds.Effort``) are the least that reach it on half of the queries, with
a margin of two standard errors; what export.json says is measured on the other half. Times are CPU
time on one thread, the exact search and the approximate one in turns of a block of queries.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dat_rec.errors import UserError
from dat_rec.retrieval.approximate.ann_index import AnnFacts, ApproximateIndex, Measured, read_ann
from dat_rec.retrieval.approximate.equal_items import EqualItems, distinct_rows, write_equal
from dat_rec.retrieval.approximate.geometry import Geometry
from dat_rec.retrieval.approximate.kinds import (
    FETCH,
    KINDS,
    LEAST,
    Effort,
    build,
    efforts,
    set_effort,
)
from dat_rec.retrieval.search import top_items

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
QUERIES = 1000
"""Maximum number of users, or items, that are asked about: half choose, half measure."""
BLOCK = 125
"""Number of queries that are searched for at a time."""


@dataclass(frozen=True)
class Wanted:
    """What an approximate index is to be."""

    kind: str = "flat"
    """``flat`` (none), ``auto``, or one of ``KINDS``."""
    min_recall: float = 0.98
    k: int = 100
    """K of the recall."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: names the option.
        """
        kinds = ("flat", *KINDS, "auto")
        if self.kind not in kinds:
            raise UserError(f"--index {self.kind}: it must be one of {', '.join(kinds)}")
        if not 0 < self.min_recall <= 1:
            raise UserError(f"--min-recall {self.min_recall}: it must be above 0, and at most 1")
        if self.k < 1:
            raise UserError(f"--recall-at {self.k}: it must be 1 or more")
        if self.kind == "flat" and self != Wanted():
            raise UserError(
                "--min-recall and --recall-at are of an approximate index: add --index auto"
            )


class Truth(NamedTuple):
    """Queries, and the exact K best items of each."""

    query_BD: Floats
    items_BK: Ints

    @property
    def k(self) -> int:
        """K."""
        return int(self.items_BK.shape[1])

    def recalls(self, found_BK: Ints) -> NDArray[np.float64]:
        """(B,) the share of each query's K best that is found."""
        pairs = zip(self.items_BK, found_BK, strict=True)
        return np.array([np.isin(wanted, found).mean() for wanted, found in pairs])


class Choice(NamedTuple):
    """What a kind of index has to spend for a recall."""

    effort: Effort
    recall: float
    """With it, on the queries that chose it."""
    reached: bool
    """Whether that is enough."""


class Tuned(NamedTuple):
    """What comes of ``write_ann``."""

    facts: AnnFacts | None
    """What export.json says of the index; None: nothing is quicker than the exact search."""
    tried: dict[str, dict[str, float]]
    """Recall, and queries/s if it was enough, of each kind that was built."""


def write_ann(
    exact: faiss.Index,
    item_ND: Floats,
    query_BD: Floats,
    wanted: Wanted,
    paths: tuple[Path, Path],
    *,
    popularity: bool,
) -> Tuned:
    """Build, tune, measure and write an approximate index, or none for ``auto``.

    Args:
        exact: the exact index.
        item_ND: (N, D) vectors, which it holds.
        query_BD: vectors of users, in a random order, two or more.
        wanted: what is asked for, of ``Wanted.check``.
        paths: of the index to write, and of the table of equal items.
        popularity: whether the vectors end in what popularity adds, which similar items leave out.

    Raises:
        UserError: there are too few different vectors, or the recall is not reached.
    """
    first, first_N = distinct_rows(item_ND)
    if len(first) < LEAST:
        if wanted.kind == "auto":
            return Tuned(None, {})
        raise UserError(
            f"--index {wanted.kind}: the items have {len(first)} different vectors, and it takes "
            f"{LEAST} or more: leave the option out, the exact index is as quick"
        )
    path, equal_path = paths
    write_equal(first_N, equal_path)
    equal = EqualItems.read(equal_path)
    k, half = min(wanted.k, len(item_ND)), len(query_BD) // 2
    geometry = Geometry(query_BD[:half])
    best: AnnFacts | None = None
    tried: dict[str, dict[str, float]] = {}
    with threadpool_limits(1):
        choosing = Truth(query_BD[:half], top_items(exact, item_ND, query_BD[:half], k)[0])
    listed = np.searchsorted(first, np.unique(first_N[choosing.items_BK]))
    for kind in KINDS if wanted.kind == "auto" else [one for one in KINDS if one == wanted.kind]:
        points_MW = geometry.points(item_ND[first])
        queries = geometry.of_queries()
        words, index = build(kind, points_MW, first, queries, listed)
        made = ApproximateIndex(kind, index, equal, exact, item_ND, k)
        choice = least_effort(made, choosing, wanted.min_recall)
        tried[kind] = {"recall": choice.recall}
        if not choice.reached:
            continue
        users = measure(made, query_BD[half:], k, choice.effort)
        tried[kind] = {"recall": users.recall, "queries_per_s": users.queries_per_s}
        quickest = max(users.exact_queries_per_s, best.users.queries_per_s if best else 0.0)
        if users.recall < wanted.min_recall or (
            wanted.kind == "auto" and users.queries_per_s <= quickest
        ):
            continue
        set_effort(kind, index, choice.effort.search)
        faiss.write_index(index, str(path))
        best = AnnFacts(kind, words, len(first), k, wanted.min_recall, choice.effort, users)
    if best is None:
        equal_path.unlink()
        if wanted.kind == "auto":
            return Tuned(None, tried)
        reached = tried[wanted.kind]["recall"]
        raise UserError(
            f"--index {wanted.kind}: recall@{k} of users' lists is {reached:.4f} at most, and "
            f"--min-recall is {wanted.min_recall}: ask for less, or for another kind"
        )
    written = ApproximateIndex(best.kind, read_ann(path), equal, exact, item_ND, k)
    similar = _of_similar(written, best, popularity=popularity)
    if similar is not None:
        best = replace(best, similar_effort=similar[0], similar=similar[1])
    return Tuned(best, tried)


def least_effort(made: ApproximateIndex, truth: Truth, min_recall: float) -> Choice:
    """The effort that reaches a recall by two standard errors, or, if none does, the greatest.

    Of several numbers of candidates, the one with which the search is the quickest.

    Args:
        made: the index.
        truth: queries to choose by.
        min_recall: the recall.
    """
    ladder = efforts(made.kind, made.index.ntotal, made.k)
    found: dict[int, tuple[float, Choice]] = {}
    best = Choice(Effort(ladder[-1]), 0.0, reached=False)
    with threadpool_limits(1):
        for fetch in FETCH if made.kind == "ivf_pq" else (1,):
            low, high = 0, len(ladder)
            while low < high:
                middle = (low + high) // 2
                effort = Effort(ladder[middle], fetch)
                begin = time.process_time()
                recalls = truth.recalls(_lists(made, truth.query_BD, truth.k, effort))
                seconds = time.process_time() - begin
                recall = float(recalls.mean())
                margin = 2 * float(recalls.std()) / len(recalls) ** 0.5
                last = middle == len(ladder) - 1
                reached = recall - (0 if last else margin) >= min_recall
                if reached:
                    high = middle
                    found[fetch] = (seconds, Choice(effort, recall, reached=True))
                else:
                    low = middle + 1
                    best = max(best, Choice(effort, recall, reached=False), key=lambda c: c.recall)
    return min(found.values(), key=lambda one: one[0])[1] if found else best


def measure(made: ApproximateIndex, query_BD: Floats, k: int, effort: Effort) -> Measured:
    """What the index is worth, on queries that have not chosen it."""
    seconds = {"exact": 0.0, "approximate": 0.0}
    recalls = []
    with threadpool_limits(1):
        for start in range(0, len(query_BD), BLOCK):
            block_BD = query_BD[start : start + BLOCK]
            times = [time.process_time()]
            truth = Truth(block_BD, top_items(made.exact, made.item_ND, block_BD, k)[0])
            times.append(time.process_time())
            items_BK, _ = made.top_items(block_BD, k, effort)
            times.append(time.process_time())
            recalls.append(truth.recalls(items_BK))
            for name, spent in zip(seconds, np.diff(times), strict=True):
                seconds[name] += float(spent)
    recall_B = np.concatenate(recalls)
    return Measured(
        recall=float(recall_B.mean()),
        recall_p10=float(np.quantile(recall_B, 0.1)),
        queries=len(query_BD),
        queries_per_s=len(query_BD) / max(seconds["approximate"], 1e-9),
        exact_queries_per_s=len(query_BD) / max(seconds["exact"], 1e-9),
        block=min(BLOCK, len(query_BD)),
    )


def _lists(made: ApproximateIndex, query_BD: Floats, k: int, effort: Effort) -> Ints:
    blocks = range(0, len(query_BD), BLOCK)
    found = [made.top_items(query_BD[start : start + BLOCK], k, effort)[0] for start in blocks]
    return np.concatenate(found)


def _of_similar(
    made: ApproximateIndex, facts: AnnFacts, *, popularity: bool
) -> tuple[Effort, Measured] | None:
    """What similar items are searched with, and its worth.

    Returns:
        None where the recall is not reached, or not quicker than by scoring all items.
    """
    rows = np.random.default_rng(0).permutation(len(made.item_ND))[:QUERIES]
    query_BD = np.array(made.item_ND[rows])
    if popularity:
        query_BD[:, -1] = 0
    # With the item itself, which is the nearest of all, and is left out.
    k, half = min(facts.k + 1, len(made.item_ND)), len(rows) // 2
    with threadpool_limits(1):
        truth = Truth(query_BD[:half], top_items(made.exact, made.item_ND, query_BD[:half], k)[0])
    choice = least_effort(made, truth, facts.min_recall)
    if not choice.reached:
        return None
    measured = measure(made, query_BD[half:], k, choice.effort)
    quicker = measured.queries_per_s > measured.exact_queries_per_s
    return (choice.effort, measured) if quicker and measured.recall >= facts.min_recall else None
