"""Bags of ids in, their sums out, from tables that are divided over the ranks without an optimizer.

Every row travels whole to the rank that needs it, and is pooled there: as in one process, to the
last bit. (TorchRec's lookup of a row-wise table adds up the ranks' partial sums.)
"""

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.retrieval.divided import DividedRows, equal_bounds, fetch, own_range


class FetchedTables(nn.Module):
    """Looks up bags of rows and adds them up, as the EmbeddingBagCollection that it stands for.

    Each row comes whole from the ranks that hold it; a subclass says which ones.

    Args:
        collection: names the tables and their features.
    """

    def __init__(self, collection: EmbeddingBagCollection) -> None:
        super().__init__()
        self._keys = {
            config.name: list(config.feature_names) for config in collection.embedding_bag_configs()
        }

    def parts(self) -> Mapping[str, Sequence[DividedRows]]:
        """Return by the tables' names blocks of columns that make up each, from left to right."""
        raise NotImplementedError

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Return the sum of each bag, (B, dim) for each key. Collective; B may differ, or be 0."""
        by_key = features.to_dict()
        distinct = {}
        for name, keys in self._keys.items():
            values = torch.cat([by_key[key].values() for key in keys])
            distinct[name] = torch.unique(values, return_inverse=True)
        parts = self.parts()
        wanted = [(part, distinct[name][0]) for name in self._keys for part in parts[name]]
        fetched = iter(fetch(wanted))
        sums: dict[str, Tensor] = {}
        for name, keys in self._keys.items():
            found = [next(fetched) for _ in parts[name]]
            rows = torch.cat(found, dim=1) if len(found) > 1 else found[0]
            lengths = [by_key[key].values().numel() for key in keys]
            places = distinct[name][1].split(lengths)
            for key, place in zip(keys, places, strict=True):
                offsets = by_key[key].offsets()
                sums[key] = _sums(place, rows, offsets)
        return KeyedTensor.from_tensor_list(list(sums), list(sums.values()))


class DividedTables(FetchedTables):
    """Each rank holds an equal part of every table's rows.

    Args:
        collection: on the meta device.
    """

    def __init__(self, collection: EmbeddingBagCollection) -> None:
        super().__init__(collection)
        self.tables: dict[str, DividedRows] = {}
        """By the tables' names."""
        for config in collection.embedding_bag_configs():
            bounds = equal_bounds(config.num_embeddings)
            start, stop = own_range(bounds)
            dtype = torch.float16 if config.data_type == DataType.FP16 else torch.float32
            # Untouched, it takes no memory.
            local = torch.empty(stop - start, config.embedding_dim, dtype=dtype)
            self.tables[config.name] = DividedRows(local, bounds)

    def load(self, files: TensorFiles, prefix: str) -> None:
        """Take this rank's rows from a checkpoint, whose tables' names begin with ``prefix``.

        They are mapped from its files, where each lies in one piece, and read where not.

        Raises:
            UserError: a table is missing, or has another shape.
        """
        for name, rows in self.tables.items():
            start = own_range(rows.bounds)[0]
            shape, weight = (int(rows.bounds[-1]), rows.dim), f"{prefix}.{name}/weight"
            mapped = files.map_rows(weight, start, len(rows.local), shape)
            if mapped is not None and mapped.rows.dtype == rows.local.dtype:
                self.tables[name] = DividedRows(mapped.rows, rows.bounds, mapped.file)
            else:
                files.read_into(weight, rows.local, (start, 0), shape)

    def keep(self, features: Collection[str]) -> None:
        """Let go of the memory of the tables that none of these features looks up."""
        for name, rows in self.tables.items():
            if not set(self._keys[name]) & set(features):
                self.tables[name] = DividedRows(rows.local[:0].clone(), rows.bounds)

    def parts(self) -> Mapping[str, Sequence[DividedRows]]:
        """See FetchedTables."""
        return {name: [rows] for name, rows in self.tables.items()}


def _sums(places: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    if not len(rows):
        return rows.new_zeros(len(offsets) - 1, rows.shape[1])
    return F.embedding_bag(places, rows, offsets, mode="sum", include_last_offset=True)
