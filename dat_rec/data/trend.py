"""Items' training counts and how often they were had lately in, their counts at today's rate out.

What was popular a year ago is no longer, and what came last week is not yet by its count. With n_v
training interactions of item v, N of all items, and r_v of ``recent_count``
(``prepare/trend.py``), R of all items,

    trending(v) = n_v · (r_v + κ) / (n_v · R / N + κ)

is n_v where v was had lately as often as ever, and less or more elsewhere. κ = 3 interactions hold
back what few interactions tell.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from dat_rec.files import STRICT

PRIOR = 3.0
"""κ."""


@dataclass(frozen=True)
class Trend:
    """How ``recent_count`` was counted."""

    half_life: Annotated[int, Ge(1)]
    """Time after which an interaction counts half, in the unit of ``time``."""
    until: int
    """Time up to which ages are counted: the end of training."""

    __pydantic_config__ = STRICT


def trending(train_count: NDArray[np.float64], recent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (items,) counts at today's rate.

    Args:
        train_count: (items,) n.
        recent: (items,) r.
    """
    expected = train_count * (recent.sum() / max(1.0, train_count.sum()))
    result: NDArray[np.float64] = train_count * (recent + PRIOR) / (expected + PRIOR)
    return result
