"""What decides the stream of batches, whatever the number of ranks."""

from dataclasses import dataclass
from typing import Literal

from dat_rec.data.columns import CURE

OPTION_CURE = f"{CURE}, or train the unknown row in its place with --examples.bad-ids unknown"
"""What a refused id advises where the options could let it pass."""


@dataclass(frozen=True)
class ReaderOptions:
    """What decides the stream of batches."""

    global_batch: int
    """G, number of examples in a step, on all ranks together."""
    epochs: int
    """Number of passes over the examples."""
    seed: int
    """Random seed of the examples' order, of hidden ids and of negatives."""
    negatives: int
    """S, number of negatives for each example."""
    shared_negatives: int = 0
    """Number of negatives for each global batch, in place of S for each example."""
    in_batch: bool = True
    """Whether positives are candidates of other examples, which decides what log Q is."""
    negative_power: float = 0.0
    """Negatives are drawn ∝ (training count)^power."""
    log_q: float = 1.0
    """w, strength of the correction for how often an item is a candidate."""
    own_log_q: bool = True
    """Whether an example's own positive is corrected by log Q too."""
    popularity: float = 0.0
    """β, weight of an item's log popularity in its score."""
    id_dropout: float = 0.0
    """Probability that an example's user (and, apart, its item) id becomes the unknown row."""
    user_dropout: float = 0.0
    """The same of users' ids alone, where it is more."""
    unknown_count: Literal["one", "typical"] = "one"
    """``one``: items whose ids are hidden keep their popularity, and negatives' ids are not hidden.
    ``typical``: hidden items all have that of ``typical_count``, as in what is served, and drawn
    negatives are hidden too, with probability ``id_dropout`` each."""
    skip_repeats: bool = False
    """Train only on pairs that are new to the user."""
    bad_ids: Literal["refuse", "unknown"] = "refuse"
    """What becomes of ids outside their table: ``refuse`` stops, ``unknown`` puts the unknown row
    in their place and counts them."""
    categories: int | None = None
    """Maximum number of categories that equation (3) compares, most frequent first. None: all."""
    lanes: int = 0
    """Number of lanes that the examples are dealt to; 0: as ``usual_lanes`` has it."""
    shuffle_mb: float = 512.0
    """Megabytes of the examples that are shuffled together, and of those that are read ahead, of
    all ranks; at least two row groups for each lane."""
