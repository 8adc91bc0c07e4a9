"""The same model as anyone would write it in PyTorch: what ours is compared with.

``nn.EmbeddingBag`` with sparse gradients for each table, Adagrad on them, the losses composed of
PyTorch's functions. No TorchRec, no FBGEMM, no kernel of ours; the same batches, tables, towers
and terms, and the same loss (tests/benchmarks/test_plain.py).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_rec.config import TrainConfig
from dat_rec.data.schema import ITEM, UNKNOWN, USER, Schema
from dat_rec.data.stream.batch import Batch
from dat_rec.model.dat import AUGMENTED
from dat_rec.sharding.shard import EPS


class PlainDAT(nn.Module):
    """Batch in, loss out, on one process."""

    def __init__(self, schema: Schema, config: TrainConfig) -> None:
        super().__init__()
        self._schema, self._config = schema, config
        shape, augment = config.model, config.model.augment
        rows = {feature.table: feature.rows for feature in schema.features}
        self.tables = nn.ModuleDict(
            {table: _bag(number, shape.embedding_dim) for table, number in rows.items()}
        )
        if augment:
            for feature, table in AUGMENTED.items():
                self.tables[table] = _bag(schema.feature(feature).rows, shape.output_dim)
        widths = [
            len(schema.side(side)) * shape.embedding_dim + augment * shape.output_dim
            for side in ("query", "item")
        ]
        self.query_tower, self.item_tower = (
            _tower([width, *shape.hidden, shape.output_dim]) for width in widths
        )

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adagrad on the tables, Adam on the towers."""
        learn = self._config.optimizer
        towers = [*self.query_tower.parameters(), *self.item_tower.parameters()]
        return [
            torch.optim.Adagrad(self.tables.parameters(), lr=learn.table_lr, eps=EPS),
            torch.optim.Adam(towers, lr=learn.tower_lr),
        ]

    def forward(self, batch: Batch) -> Tensor:
        """Equation (5) with the sampled softmax."""
        loss, model = self._config.loss, self._config.model
        features = batch.features.to_dict()

        def look_up(key: str, table: str) -> Tensor:
            jagged = features[key]
            bags: Tensor = self.tables[table](jagged.values(), jagged.offsets()[:-1])
            mean: Tensor = bags / jagged.lengths().clamp(min=1).unsqueeze(1)
            return mean

        def item_inputs(key: str) -> Tensor:
            parts = [look_up(f.name + key, f.table) for f in self._schema.side("item")]
            if model.augment:
                parts.append(look_up(ITEM + key, AUGMENTED[ITEM]))
            return torch.cat(parts, dim=1)

        rows = len(batch.positives.index)
        parts = [look_up(f.name, f.table) for f in self._schema.side("query")]
        if model.augment:
            parts.append(look_up(USER, AUGMENTED[USER]))
        query = F.normalize(self.query_tower(torch.cat(parts, dim=1)[:rows]), dim=1)
        negatives = 0 if loss.shared_negatives else loss.negatives
        keys = ["", *(f"@{number + 1}" for number in range(negatives))]
        inputs = torch.cat([item_inputs(key) for key in keys])
        items = F.normalize(self.item_tower(inputs), dim=1)
        positive = items[:rows]
        index = torch.cat([batch.positives.index, batch.negatives.index])
        offset = torch.cat([batch.positives.offset, batch.negatives.offset])

        first = 0 if loss.in_batch else rows
        logits = query @ items[first:].T / loss.temperature + offset[first:]
        own = (query * positive).sum(1) / loss.temperature + offset[:rows]
        hits = index[:rows, None] == index[first:]
        logits = torch.cat([own[:, None], logits.masked_fill(hits, float("-inf"))], dim=1)
        zeros = torch.zeros(rows, dtype=torch.int64, device=query.device)
        total = F.cross_entropy(logits, zeros)
        if model.augment:
            a_u, a_v = (look_up(key, AUGMENTED[key])[:rows] for key in (USER, ITEM))
            total = total + loss.mimic_user * (a_u - positive.detach()).square().sum(1).mean()
            total = total + loss.mimic_item * (a_v - query.detach()).square().sum(1).mean()
        if loss.alignment:
            category = torch.cat([batch.positives.category, batch.negatives.category])
            total = total + loss.alignment * _alignment(items, category)
        return total


def _bag(rows: int, dim: int) -> nn.EmbeddingBag:
    return nn.EmbeddingBag(rows, dim, mode="sum", sparse=True)


def _tower(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _alignment(items: Tensor, category: Tensor) -> Tensor:
    kinds, counts = category.unique(return_counts=True)
    usable = [
        (int(count), torch.cov(items[category == kind].T))
        for kind, count in zip(kinds, counts, strict=True)
        if kind != UNKNOWN and count >= 2
    ]
    if not usable:
        return items.new_zeros(())
    major = max(usable, key=lambda pair: pair[0])[1]
    return torch.stack([(major - other).square().sum() for _, other in usable]).sum()
