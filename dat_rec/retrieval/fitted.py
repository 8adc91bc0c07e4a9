"""Training pairs in, ItemCF and iALS fitted by the library ``implicit`` out, and their ranks.

``ItemCF`` scores an item by the sum of its cosine similarities to the user's items, over each of
these items' nearest neighbours (``CosineRecommender``; Sarwar et al., WWW 2001). Users may be
damped: each counts in the cosine as divided by a power of the number of items that the user has,
so that those who take everything say less (0: plain cosine).

``iALS`` is matrix factorisation by alternating least squares (``AlternatingLeastSquares``; Hu,
Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008).

What they cannot score is ranked by popularity: all items for a user without training, and, behind
the others, the items to which ItemCF finds no neighbour among the user's. Items without training
stand behind all others, as those of the rules do.

The same pairs and settings give the same bits on any number of threads: implicit's solve each row
by itself, and BLAS is held to one.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from implicit.utils import ParameterWarning
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from dat_rec.data.dataset import Dataset
from dat_rec.retrieval.baselines import popularity_keys
from dat_rec.retrieval.divided import ALONE
from dat_rec.retrieval.feature_rows import RowGroups
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranking import BLOCK_BYTES, Ranking, Ranks, columns_of
from dat_rec.retrieval.ranks import Threads
from dat_rec.retrieval.top_lists import NOTHING, TopLists

ITERATIONS = 15
"""Sweeps of iALS over users and items: implicit's default."""
SEED = 0
"""Of every random choice here: all runs on a dataset share its baselines."""

Ints = NDArray[np.int64]
Chosen = dict[str, Any]
"""Settings of a baseline by name."""
Scores = Callable[[Ints], NDArray[np.float32]]
"""(B,) users' rows → (B, T) scores of the trained items."""


@dataclass(frozen=True)
class Training:
    """What the baselines are fitted on."""

    pairs: sparse.csr_matrix
    """(users, T) float32: how often each pair occurs in training."""
    popularity: NDArray[np.float64]
    """(T,) ``popularity_keys``."""
    threads: int
    """Number of them that fit."""


def read_training(dataset: Dataset, protocol: Protocol, threads: Threads) -> Training:
    """Read the training pairs of all users.

    Raises:
        UserError: seen.parquet cannot be read.
    """
    shape = (dataset.schema.users, dataset.schema.trained_items)
    parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
    for path in (dataset.folder / name for name in dataset.schema.seen_paths):
        source = RowGroups(path, ["user_row", "item_index", "count"])
        for group in range(len(source.bounds) - 1):
            table = source.read(group)
            user, item = (
                table[name].to_numpy().astype(np.int32) for name in ("user_row", "item_index")
            )
            parts.append((user, item, table["count"].to_numpy().astype(np.float32)))
    user, item, count = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    # A pair of several files is one: SciPy adds its counts up.
    pairs = sparse.csr_matrix((count, (user, item)), shape)
    return Training(pairs, popularity_keys(protocol), threads.number)


def item_cf(training: Training, chosen: Chosen) -> Scores:
    """Fit ItemCF.

    Args:
        training: the pairs.
        chosen: ``neighbours`` of each item, itself included; ``damping``, the power; ``weight`` of
            a pair, ``count`` or ``once``.
    """
    pairs = weighted(training.pairs, chosen["weight"])
    per_user = np.maximum(np.diff(pairs.indptr), 1).astype(np.float32)
    damped = sparse.diags(per_user ** np.float32(-chosen["damping"])) @ pairs
    model = CosineRecommender(K=chosen["neighbours"], num_threads=training.threads)
    with warnings.catch_warnings():
        # implicit warns of what it hands to itself.
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(damped.tocsr(), show_progress=False)
    similarity = model.similarity

    def scores(users: Ints) -> NDArray[np.float32]:
        found = (pairs[users] @ similarity).toarray()
        return np.where(found > 0, found, training.popularity).astype(np.float32)

    return scores


def i_als(training: Training, chosen: Chosen) -> Scores:
    """Fit iALS.

    Args:
        training: the pairs.
        chosen: ``factors``; ``regularization``; ``alpha``, by which the weight of a pair is
            multiplied; ``weight``, ``count`` or ``once``.

    Raises:
        ModelFitError: of implicit: the factors are not finite.
    """
    pairs = weighted(training.pairs, chosen["weight"])
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=chosen["factors"],
            regularization=chosen["regularization"],
            alpha=chosen["alpha"],
            iterations=ITERATIONS,
            num_threads=training.threads,
            random_state=SEED,
        )
        model.fit(pairs, show_progress=False)
    user_UF = torch.from_numpy(model.user_factors).double()
    item_TF = torch.from_numpy(model.item_factors).double()
    known = np.diff(pairs.indptr) > 0

    def scores(users: Ints) -> NDArray[np.float32]:
        found = (user_UF[torch.from_numpy(users)] @ item_TF.T).numpy()
        return np.where(known[users, None], found, training.popularity).astype(np.float32)

    return scores


FITTED: dict[str, Callable[[Training, Chosen], Scores]] = {"ItemCF": item_cf, "iALS": i_als}


def weighted(pairs: sparse.csr_matrix, weight: str) -> sparse.csr_matrix:
    """The pairs with the weight that is asked for."""
    if weight == "count":
        return pairs
    once = pairs.copy()
    once.data[:] = 1
    return once


def score_ranks(
    protocol: Protocol, scores: Scores, threads: Threads, lists: TopLists | None = None
) -> Ranks:
    """Rank every query's item by scores, in this process.

    Args:
        protocol: the queries.
        scores: of the trained items; the others stand behind them.
        threads: that count side by side.
        lists: takes the best items of each user, if they are wanted.
    """
    trained, users = protocol.trained_items, protocol.users
    # One column behind the trained items' stands for all others.
    column = np.minimum(np.arange(len(protocol.train_count)), trained).astype(np.int32)
    items = columns_of(column, trained, torch.empty(0, 0), trained + 1)
    ranking = Ranking(protocol, items, np.arange(len(users)), threads, ALONE, lists=lists)
    at_once = max(1, BLOCK_BYTES // (4 * items.distinct))
    for start in range(0, len(users), at_once):
        block = users[start : start + at_once]
        scores_BK = np.full((len(block), trained + 1), NOTHING, np.float32)
        scores_BK[:, :trained] = scores(block)
        ranking.count(np.arange(start, start + len(block)), np.arange(len(block)), scores_BK)
    return ranking.ranks()
