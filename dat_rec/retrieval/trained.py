"""A run's trained model, for evaluation and export, its tables divided over the ranks.

Each rank holds an equal part of the rows of every table, and reads no more of the checkpoint. There
is no optimizer. Every row travels whole to the rank that needs it, and is pooled there: as in one
process, to the last bit. (TorchRec's lookup of a row-wise table adds up the ranks' partial sums.)
"""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.checkpoint.find import chosen_whole
from dat_rec.checkpoint.model_state import load_towers
from dat_rec.checkpoint.read_tensors import TensorFiles
from dat_rec.checkpoint.restore import CURE, read_index, read_together
from dat_rec.data.dataset import Dataset
from dat_rec.dist.agree import check_same_on_all_ranks, together
from dat_rec.errors import UserError
from dat_rec.model.dat import DAT
from dat_rec.model.towers import TowerFactory
from dat_rec.option_marks import to_json
from dat_rec.retrieval.divided import DividedRows, equal_bounds, fetch, own_range
from dat_rec.runs.recorded import check_same_rows, load_config
from dat_rec.storage.address import Location
from dat_rec.training.objective import TrainTask


@dataclass(frozen=True)
class Trained:
    """A trained model, on CPU and without gradients, with its dataset."""

    model: DAT
    """Its tables are ``DividedTables``: all ranks must call it together."""
    dataset: Dataset
    step: int
    """Number of steps done when the checkpoint was written."""


class DividedTables(nn.Module):
    """Looks up bags of rows and adds them up, as the EmbeddingBagCollection that it stands for.

    Args:
        collection: on the meta device.
    """

    def __init__(self, collection: EmbeddingBagCollection) -> None:
        super().__init__()
        self.tables: dict[str, DividedRows] = {}
        """By the tables' names."""
        self._keys: dict[str, list[str]] = {}
        for config in collection.embedding_bag_configs():
            bounds = equal_bounds(config.num_embeddings)
            start, stop = own_range(bounds)
            dtype = torch.float16 if config.data_type == DataType.FP16 else torch.float32
            local = torch.empty(stop - start, config.embedding_dim, dtype=dtype)
            self.tables[config.name] = DividedRows(local, bounds)
            self._keys[config.name] = list(config.feature_names)

    def load(self, files: TensorFiles, prefix: str) -> None:
        """Read this rank's rows from a checkpoint, whose tables' names begin with ``prefix``.

        Raises:
            UserError: a table is missing, or has another shape.
        """
        for name, rows in self.tables.items():
            start = own_range(rows.bounds)[0]
            shape = (int(rows.bounds[-1]), rows.dim)
            files.read_into(f"{prefix}.{name}/weight", rows.local, (start, 0), shape)

    def keep(self, features: Collection[str]) -> None:
        """Let go of the memory of the tables that none of these features looks up."""
        for name, rows in self.tables.items():
            if not set(self._keys[name]) & set(features):
                self.tables[name] = DividedRows(rows.local[:0].clone(), rows.bounds)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Return the sum of each bag, (B, dim) for each key. Collective; B may differ, or be 0."""
        by_key = features.to_dict()
        distinct = {}
        for name, keys in self._keys.items():
            values = torch.cat([by_key[key].values() for key in keys])
            distinct[name] = torch.unique(values, return_inverse=True)
        fetched = fetch([(rows, distinct[name][0]) for name, rows in self.tables.items()])
        sums: dict[str, Tensor] = {}
        for (name, keys), rows in zip(self._keys.items(), fetched, strict=True):
            lengths = [by_key[key].values().numel() for key in keys]
            places = distinct[name][1].split(lengths)
            for key, place in zip(keys, places, strict=True):
                offsets = by_key[key].offsets()
                sums[key] = _sums(place, rows, offsets)
        return KeyedTensor.from_tensor_list(list(sums), list(sums.values()))


def _sums(places: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    if not len(rows):
        return rows.new_zeros(len(offsets) - 1, rows.shape[1])
    return F.embedding_bag(places, rows, offsets, mode="sum", include_last_offset=True)


def load_model(
    run: Path,
    data: Location | None = None,
    checkpoint: str = "newest",
    tower: TowerFactory | None = None,
) -> Trained:
    """Load the model of a whole checkpoint of the run, with the dataset it was trained on.

    All ranks call this together; without a process group, one process does so alone.

    Args:
        run: folder that ``dat-rec train`` made.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: the number of its steps, ``best`` or ``newest``, as of ``chosen_whole``.
        tower: the tower that the run was trained with, if it was not dat_rec's own.

    Raises:
        UserError: there is no such whole checkpoint, or the dataset or the tower is not that of the
            training.
    """
    with together():
        config = load_config(run)
    found = chosen_whole(run, checkpoint)
    if found is None:
        raise UserError(f"{run}: no whole checkpoint yet: go on with `dat-rec train … --resume`")
    with together():
        dataset = Dataset.open(data or config.data)
        if rank_and_ranks()[0] == 0:
            check_same_rows(run, dataset)
    facts = [to_json(config), str(dataset.schema), dataset.versions()]
    check_same_on_all_ranks(json.dumps(facts), "the run or the dataset")
    with together():
        # Queries and items are embedded apart from now on: no negatives beside them.
        loss = dataclasses.replace(config.loss, negatives=0, shared_negatives=0)
        meta = torch.device("meta")
        task = TrainTask(dataset.schema, config.model, loss, meta, tower=tower)
    model = task.dat

    def load() -> None:
        _, files = read_index(found.folder)
        for name, tables in collections.items():
            tables.load(files, f"tables/dat.{name}")
        load_towers(files, task)

    model.embeddings = DividedTables(model.embeddings)
    collections = {"embeddings": model.embeddings}
    if model.augmented is not None:
        model.augmented = DividedTables(model.augmented)
        collections["augmented"] = model.augmented
    problem = f"{found.folder}: does not fit the model"
    read_together(load, found.folder, problem, CURE)
    # Ids that were trained as unknown are encoded as unknown.
    dataset = dataclasses.replace(dataset, bad_ids=config.examples.bad_ids)
    return Trained(model.requires_grad_(False).eval(), dataset, found.step)
