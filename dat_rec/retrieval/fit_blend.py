"""A model in, the weights out by which own history is blended with it: chosen on what is held out.

What is ranked is the dataset's validation, if it has one. Otherwise it is the last tenth of the
training interactions of the users who take part, and their past ends where it begins. (The model
was trained on that tenth, so its new pairs look easier than they are. What is chosen hardly
changes: on The Complete Journey the same weights win either way.)

Chosen is the blend with the highest HR@100 of all pairs; of equal ones the first of ``BLENDS``,
where those that change the model's order less stand first.
"""

from typing import Any, NamedTuple

import numpy as np

from dat_rec.data.dataset import Dataset
from dat_rec.dist.agree import together
from dat_rec.errors import UserError
from dat_rec.retrieval.blend import Blend, Past, past_of, read_past
from dat_rec.retrieval.blended_ranks import BlendedRanks
from dat_rec.retrieval.divided import BETWEEN_RANKS
from dat_rec.retrieval.metrics import hit_rate
from dat_rec.retrieval.model_ranks import model_ranks
from dat_rec.retrieval.protocol import Protocol
from dat_rec.retrieval.ranks import Threads
from dat_rec.retrieval.trained import Trained

WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0)
HALF_LIVES = (None, 1.0, 0.5, 0.25, 0.125, 0.0625)
BLENDS = (Blend(0.0, None), *(Blend(w, half_life) for w in WEIGHTS for half_life in HALF_LIVES))
"""Those that are tried; the model alone is the first."""
CUTOFF = 100
SHARE = 0.1
"""Of the training interactions that are held out where there is no validation."""
MOST_QUERIES, MOST_USERS = 100_000, 5_000
"""Maximum number of queries of the validation; of users, where there is none."""
SEED = 0


class FittedBlend(NamedTuple):
    """What was chosen."""

    blend: Blend
    fitted_on: str
    """``validation``, or ``the last tenth of training``."""
    trials: list[dict[str, Any]]
    """Weight, half-life and figure of each blend."""

    def facts(self) -> dict[str, Any]:
        """``settings`` and ``trials``, as metrics.json has them."""
        settings = {**self.blend._asdict(), "fitted_on": self.fitted_on}
        return {"settings": settings, "trials": self.trials}


def fit_blend(trained: Trained, threads: Threads) -> FittedBlend:
    """Choose the weights. Collective; every number of ranks chooses the same.

    Args:
        trained: the model, with its dataset.
        threads: that compute side by side.

    Raises:
        UserError: nothing is held out that can be answered, or a file cannot be read.
    """
    dataset = trained.dataset
    with together():
        if dataset.schema.validation:
            fitted_on = "validation"
            protocol = Protocol.read(dataset, "validation", MOST_QUERIES, SEED)
            past = past_of(dataset, protocol)
        else:
            fitted_on = "the last tenth of training"
            protocol, past = _end_of_training(dataset)
        if not protocol.answerable.any():
            raise UserError(
                f"--blend-history: nothing in {fitted_on} of {dataset.folder} can tell how own "
                "history counts: prepare it with --validation-share, or leave the option out"
            )
    blended = BlendedRanks(protocol, past, BLENDS, BETWEEN_RANKS)
    model_ranks(trained.model, dataset, protocol, threads, blended=blended)
    ranks_SQ, _ = blended.ranks()
    found = [hit_rate(ranks_Q[protocol.answerable], CUTOFF) for ranks_Q in ranks_SQ]
    trials = [
        {**blend._asdict(), f"HR@{CUTOFF}": figure}
        for blend, figure in zip(BLENDS, found, strict=True)
    ]
    return FittedBlend(BLENDS[int(np.argmax(found))], fitted_on, trials)


def _end_of_training(dataset: Dataset) -> tuple[Protocol, Past]:
    """Queries from the end of training, and what their users had done before."""
    users, items = dataset.schema.users, dataset.schema.items
    kept = np.zeros(users, np.bool_)
    kept[np.random.default_rng(SEED).permutation(users)[:MOST_USERS]] = True
    past, late = read_past(dataset, kept).split(SHARE)
    protocol = Protocol(
        user_row=np.repeat(late.user, late.counts()),
        item_index=np.repeat(late.item, late.counts()),
        user_trained=np.isin(np.arange(users), past.user),
        train_count=(np.arange(items) < dataset.schema.trained_items).astype(np.int64),
        category=np.zeros(items, np.int64),
        category_names=("(unknown)",),
        seen_offsets=np.searchsorted(past.user, np.arange(users + 1)),
        seen_item=past.item,
        seen_count=past.counts(),
    )
    return protocol, past
