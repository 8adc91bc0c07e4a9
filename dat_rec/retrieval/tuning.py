"""Training pairs in, the settings of ItemCF and iALS out: chosen on validation, never on the test.

The validation is the dataset's (``validation.parquet``), if it has one. Otherwise it is a tenth of
the training pairs of users who are asked, chosen at random by a fixed seed; the trials are fitted
on the other pairs, and what is chosen is fitted on all. At most 5,000 users take part, and fewer
where there are over 100,000 items.

Settings are chosen one after the other: each takes the value that is best with those chosen
before. Best is the highest NDCG@100, mean over users, of pairs that are new
(``dat_rec.retrieval.per_user``): it counts what is among the first hundred, and how far up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from implicit.recommender_base import ModelFitError
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from dat_rec.data.dataset import Dataset
from dat_rec.retrieval.fitted import FITTED, SEED, Chosen, Training, score_ranks
from dat_rec.retrieval.per_user import per_user
from dat_rec.retrieval.protocol import Protocol, numbers
from dat_rec.retrieval.ranks import Threads

VALIDATION = "validation"
"""The dataset's table of interactions that are held out of training for choices."""
SHARE = 0.1
MOST_USERS, MOST_SCORES = 5000, 500_000_000
"""Maximum number of users who take part, and of their scores, one for each trained item."""
CUTOFF = 100
GRIDS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "ItemCF": {
        "damping": (0.5, 0.0),
        "neighbours": (200, 50, 1000),
        "weight": ("count", "once"),
    },
    "iALS": {
        "alpha": (10.0, 1.0, 100.0),
        "regularization": (1.0, 0.01, 30.0),
        "factors": (64, 32, 128),
        "weight": ("count", "once"),
    },
}
"""The values of each setting, the one to begin with first."""

Ints = NDArray[np.int64]


class Validation(NamedTuple):
    """What trials are fitted on, and ranked for."""

    training: Training
    protocol: Protocol


def validation_of(dataset: Dataset, protocol: Protocol, training: Training) -> Validation:
    """Hold out pairs for the choice of settings.

    Args:
        dataset: a prepared dataset.
        protocol: the evaluation's, of which the users and the catalogue are taken.
        training: all pairs.

    Raises:
        UserError: the validation cannot be read.
    """
    rng = np.random.default_rng(SEED)
    pairs = training.pairs
    if dataset.schema.validation:
        table = dataset.table(VALIDATION, ["user_row", "item_index"])
        where = f"{dataset.folder / VALIDATION}.parquet"
        user = numbers(table, "user_row", where, dataset.schema.users)
        item = numbers(table, "item_index", where, dataset.schema.items)
        chosen = np.isin(user, _some(np.unique(user), protocol, rng))
        return Validation(training, _asking(protocol, user[chosen], item[chosen], pairs))
    several = np.diff(pairs.indptr)[protocol.users] > 1
    asked = _some(protocol.users[several], protocol, rng)
    place = np.concatenate(
        [np.zeros(0, np.int64), *(np.arange(*pairs.indptr[user : user + 2]) for user in asked)]
    )
    place = place[rng.random(len(place)) < SHARE]
    kept = np.ones(pairs.nnz, np.bool_)
    kept[place] = False
    owner = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    left = sparse.csr_matrix(
        (pairs.data[kept], (owner[kept], pairs.indices[kept])), shape=pairs.shape
    )
    wanted = _asking(protocol, owner[place], pairs.indices[place].astype(np.int64), left)
    return Validation(replace(training, pairs=left), wanted)


def _some(users: Ints, protocol: Protocol, rng: np.random.Generator) -> Ints:
    """As many of the users as take part, rising."""
    most = min(MOST_USERS, max(1, MOST_SCORES // protocol.trained_items))
    if len(users) <= most:
        return users
    return np.sort(rng.choice(users, most, replace=False))


def _asking(protocol: Protocol, user: Ints, item: Ints, pairs: sparse.csr_matrix) -> Protocol:
    """The protocol with other queries; what their users have had is in ``pairs``."""
    asked = np.unique(user)
    of_asked = pairs[asked]
    lengths = np.zeros(len(protocol.user_trained), np.int64)
    lengths[asked] = np.diff(of_asked.indptr)
    return replace(
        protocol,
        user_row=user,
        item_index=item,
        seen_offsets=np.append(0, np.cumsum(lengths)),
        seen_item=of_asked.indices.astype(np.int64),
        seen_count=of_asked.data.astype(np.int64),
    )


def tune(
    validation: Validation, threads: Threads, names: Sequence[str] = tuple(FITTED)
) -> dict[str, Any]:
    """Choose the settings of fitted baselines.

    Returns:
        By name: ``settings``, and ``trials``, the figure of each that was tried.
    """
    trials = sum(1 + sum(len(values) - 1 for values in GRIDS[name].values()) for name in names)
    with tqdm(desc="tune baselines", unit="fit", total=trials, delay=1.0) as shown:
        return {name: _tune(name, validation, threads, shown) for name in names}


def _tune(name: str, validation: Validation, threads: Threads, shown: "tqdm[Any]") -> Any:
    repeats = bool((validation.training.pairs.data > 1).any())
    grid = {key: values for key, values in GRIDS[name].items() if repeats or key != "weight"}
    chosen: Chosen = {key: values[0] for key, values in GRIDS[name].items()}
    trials: list[dict[str, Any]] = []

    def tried(settings: Chosen) -> float:
        figure = _figure(name, settings, validation, threads)
        trials.append({**settings, f"NDCG@{CUTOFF}": figure})
        shown.update()
        return -1.0 if figure is None else figure

    best = tried(chosen)
    for other in _others(grid):
        figure = tried({**chosen, **other})
        if figure > best:
            best = figure
            chosen.update(other)
    return {"settings": chosen, "trials": trials}


def _others(grid: Mapping[str, tuple[Any, ...]]) -> Iterator[Chosen]:
    """Each value that is not the first, one setting after the other."""
    for key, values in grid.items():
        yield from ({key: value} for value in values[1:])


def _figure(name: str, settings: Chosen, validation: Validation, threads: Threads) -> float | None:
    """NDCG of one trial; None where it cannot be fitted, or nobody is asked for anything new."""
    if not len(validation.protocol.user_row):
        return None
    try:
        scores = FITTED[name](validation.training, settings)
    except ModelFitError:
        return None
    ranks = score_ranks(validation.protocol, scores, threads)
    figure: float | None = per_user(validation.protocol, ranks, (CUTOFF,))[f"NDCG@{CUTOFF}"]
    return figure
