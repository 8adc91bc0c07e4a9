"""A dataset in, what items' popularity adds to their scores out.

Training's logit is ⟨p_u, p_v⟩ / τ + β·log P_v (``dat_rec.config``, popularity). So what is served
scores ⟨p_u, p_v⟩ + τ·β·log P_v: item vectors have that number behind p_v, and query vectors a 1
behind p_u. The most popular item has 0 there, and all others less.

Where the dataset says how often items were had lately, P is their count at today's rate
(``dat_rec.data.trend``): training has learned what a user takes beside what is popular, and what is
popular changes.
"""

import numpy as np
import torch
from torch import Tensor

from dat_rec.config import LossConfig
from dat_rec.data.columns import BadIds, read_columns
from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import ITEM, RECENT, UNKNOWN
from dat_rec.data.stream.negatives import log_popularity, typical_count
from dat_rec.data.trend import trending


def popularity_of_rows(dataset: Dataset, loss: LossConfig) -> Tensor | None:
    """Return what is served behind p_v, by the item's row in its embedding table.

    Items that share the unknown row, those without training among them, are as popular as an item
    with one interaction, or with as many as is typical (``unknown_count``).

    Args:
        dataset: that the model was trained on, or the run's copy of its rows.
        loss: as it was trained with.

    Returns:
        (rows,) float32, 0 or below; None where popularity has no weight.

    Raises:
        UserError: items.parquet cannot be read, or an id lies outside its table.
    """
    if not loss.popularity_weight():
        return None
    trained = dataset.schema.trained_items
    feature = dataset.schema.feature(ITEM)
    trend = dataset.schema.trend is not None
    names = [ITEM, "train_count", *([RECENT] if trend else [])]
    items = dataset.table("items", names).slice(0, trained)
    where = f"{dataset.folder}/items.parquet"
    rows = read_columns(items, [feature], where, BadIds(dataset.bad_ids))[ITEM].values
    count = items["train_count"].to_numpy().astype(np.float64)
    if trend:
        count = trending(count, items[RECENT].to_numpy().astype(np.float64))
    of_row = np.ones(feature.rows)
    of_row[rows] = count
    of_row[UNKNOWN] = typical_count(count) if loss.unknown_count == "typical" else 1
    weight = loss.temperature * loss.popularity_weight()
    return torch.from_numpy((weight * log_popularity(of_row)).astype(np.float32))
