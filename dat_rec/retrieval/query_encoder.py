"""A trained model's query side in, a plain PyTorch module out, which torch alone can run.

Tables, augmented vectors and tower are the model's own, without TorchRec, so that
``torch.export`` can write them into one file.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental import _config as shape_config

from dat_rec.data.columns import Column
from dat_rec.data.schema import USER, Feature
from dat_rec.errors import UserError
from dat_rec.model.dat import AUGMENTED, DAT

Inputs = tuple[dict[str, Tensor], dict[str, Tensor]]


class QueryEncoder(nn.Module):
    """p_u of B users: [e_1 ‖ … ‖ e_m ‖ a_u] through the query tower.

    Args:
        model: trained, unsharded.
        features: the query features, in the model's order.
    """

    def __init__(self, model: DAT, features: Sequence[Feature]) -> None:
        super().__init__()
        tables = sorted({feature.table for feature in features})
        self._lookups = [(feature.name, tables.index(feature.table)) for feature in features]
        self.tables = nn.ModuleList(
            _bag(model.embeddings.embedding_bags[table].weight) for table in tables
        )
        self.augmented = (
            None
            if model.augmented is None
            else _bag(model.augmented.embedding_bags[AUGMENTED[USER]].weight)
        )
        self.tower = model.query_tower
        self._dtype = model.dtype

    def forward(self, values: dict[str, Tensor], offsets: dict[str, Tensor]) -> Tensor:
        """Encode B users as (B, D) float32 unit vectors.

        Args:
            values: for each feature its row numbers, int64, user after user.
            offsets: for each feature (B + 1,) int64: user i has values[offsets[i]:offsets[i + 1]].
                An empty bag counts as a zero vector.
        """
        inputs = [self.tables[table](values[name], offsets[name]) for name, table in self._lookups]
        if self.augmented is not None:
            inputs.append(self.augmented(values[USER], offsets[USER]))
        vectors: Tensor = self.tower(torch.cat(inputs, dim=-1).to(self._dtype))
        return vectors.float()


def _bag(weight: Tensor) -> nn.EmbeddingBag:
    return nn.EmbeddingBag.from_pretrained(weight.detach(), mode="mean", include_last_offset=True)


def to_inputs(columns: Mapping[str, Column]) -> Inputs:
    """Columns of the same B rows as the encoder's ``values`` and ``offsets``."""
    values, offsets = {}, {}
    for name, column in columns.items():
        bounds = np.arange(len(column) + 1) if column.offsets is None else column.offsets
        values[name] = torch.tensor(column.values)  # a copy: Arrow's memory may be read-only
        offsets[name] = torch.from_numpy(bounds)
    return values, offsets


def save_query_tower(encoder: QueryEncoder, features: Sequence[Feature], path: Path) -> None:
    """Write the encoder with ``torch.export``; any number of users and values may come in."""
    example = {feature.name: torch.zeros(6, dtype=torch.int64) for feature in features}
    bounds = {feature.name: torch.arange(0, 7, 2) for feature in features}
    free = {feature.name: {0: torch.export.Dim.DYNAMIC} for feature in features}
    # Otherwise the program would refuse one user, or an empty history: sizes 0 and 1 are
    # taken for constants.
    any_size = shape_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with any_size, torch.no_grad():
        program = torch.export.export(
            encoder.eval(), (example, bounds), dynamic_shapes=(free, free)
        )
    # By way of memory: PyTorch's own file writer ends the process on a full disk.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


class QueryTower:
    """A file that ``save_query_tower`` wrote, loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._module = torch.export.load(path).module()

    def encode(self, columns: Mapping[str, Column]) -> NDArray[np.float32]:
        """(B, D) float32 unit vectors of the columns' B rows.

        Raises:
            UserError: a vector is not finite.
        """
        with torch.no_grad():
            vectors: Tensor = self._module(*to_inputs(columns))
        if not torch.isfinite(vectors).all():
            raise UserError(f"{self._path}: gives vectors that are not finite: train anew")
        return vectors.float().numpy()
