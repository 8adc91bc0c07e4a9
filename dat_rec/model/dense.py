"""Numbers and vectors of users and items in, what the towers read of them out.

Shapes: B rows, W width of a feature's values, D ``embedding_dim``.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat_rec.data.schema import DenseFeature
from dat_rec.data.stream.batch import negative_key


class DenseProjection(nn.Module):
    """d = W·x + b, x = (value − mean) / scale; d = 0 where there is no value.

    One linear layer and no activation, so that a dense feature is to the tower what an embedding
    is. Mean and scale are the dataset's (``DenseFeature``): what comes in is as it is in its files.

    Args:
        feature: names mean, scale and W.
        dim: D.
        bfloat16: whether to multiply in bfloat16, and keep weights and outputs in float32.
    """

    def __init__(self, feature: DenseFeature, dim: int, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.name, self.dim = feature.name, dim
        self._mean, self._scale = feature.mean, feature.scale
        self._bfloat16 = bfloat16
        self.layer = nn.Linear(feature.width, dim)

    def forward(self, value_BW: Tensor) -> Tensor:
        """Map (B, W) values, NaN where there is none, to (B, D)."""
        dtype = self.layer.weight.dtype
        known_B1 = ~value_BW[:, :1].isnan()
        # In the values' own dtype: float64 for numbers, whose mean may be large.
        scaled_BW = ((value_BW - self._mean) / self._scale).to(dtype)
        scaled_BW = torch.where(known_B1, scaled_BW, torch.zeros_like(scaled_BW))
        with torch.autocast(value_BW.device.type, torch.bfloat16, enabled=self._bfloat16):
            projected_BD: Tensor = self.layer(scaled_BW)
        projected_BD = projected_BD.to(dtype)
        return torch.where(known_B1, projected_BD, torch.zeros_like(projected_BD))

    @torch.no_grad()
    def take_over(self, before: DenseFeature) -> None:
        """Map every value as the weights did that were trained with another mean and scale."""
        weight, bias = self.layer.weight, self.layer.bias
        bias.add_(weight.sum(dim=1) * ((self._mean - before.mean) / before.scale))
        weight.mul_(self._scale / before.scale)


class DenseProjections(nn.Module):
    """The projections of all dense features of one tower, side by side.

    Args:
        features: the tower's, one or more, in order.
        dim: D.
        bfloat16: as ``DenseProjection``.
    """

    def __init__(
        self, features: Sequence[DenseFeature], dim: int, *, bfloat16: bool = False
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            DenseProjection(feature, dim, bfloat16=bfloat16) for feature in features
        )

    def __iter__(self) -> Iterator[DenseProjection]:
        return (one for one in self.projections if isinstance(one, DenseProjection))

    def forward(self, dense: Mapping[str, Tensor], beside_BD: Tensor, candidate: int = 0) -> Tensor:
        """Project one batch's values: (B, features · D).

        Args:
            dense: by key (B, W) values; rows that are missing at the end, and keys that are not
                there, have no value.
            beside_BD: what stands beside the result, for B.
            candidate: 0: of queries, or positives; else of the ``candidate``-th B negatives.
        """
        found = []
        for projection in self:
            name = projection.name
            value_BW = dense.get(negative_key(name, candidate) if candidate else name)
            if value_BW is None:
                found.append(beside_BD.new_zeros(len(beside_BD), projection.dim))
                continue
            found.append(F.pad(projection(value_BW), (0, 0, 0, len(beside_BD) - len(value_BW))))
        return torch.cat(found, dim=-1)


def projections(
    features: Sequence[DenseFeature], dim: int, dtype: torch.dtype, *, bfloat16: bool
) -> DenseProjections | None:
    """Make the projections of a tower's dense features, None where it has none.

    Without any no random number is drawn.
    """
    if not features:
        return None
    return DenseProjections(features, dim, bfloat16=bfloat16).to(dtype)
