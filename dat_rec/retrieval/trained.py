"""A run's trained model, for evaluation and export, its tables divided over the ranks.

Each rank holds an equal part of the rows of every table, and reads no more of the checkpoint. There
is no optimizer. With another dataset than that of the training the tables are the same; the
dataset's features are read in their numbers (``dat_rec.data.matched_rows``).
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dat_rec.checkpoint.damage import rank_and_ranks
from dat_rec.checkpoint.find import chosen_whole
from dat_rec.checkpoint.listing import DIGESTS
from dat_rec.checkpoint.model_state import load_towers
from dat_rec.checkpoint.restore import CURE, read_index, read_together
from dat_rec.config import TrainConfig
from dat_rec.data.dataset import Dataset
from dat_rec.data.matched_rows import MatchedRows
from dat_rec.data.rows import keeps_counts
from dat_rec.data.schema import Schema
from dat_rec.dist.agree import broadcast_from_rank_0, check_same_on_all_ranks, together
from dat_rec.errors import UserError
from dat_rec.model.dat import DAT
from dat_rec.model.towers import TowerFactory
from dat_rec.option_marks import to_json
from dat_rec.retrieval.popularity import popularity_of_rows
from dat_rec.retrieval.tables import DividedTables
from dat_rec.runs.dense_inputs import dense_of_run
from dat_rec.runs.figures import read_config
from dat_rec.runs.kept_rows import ROWS, match_rows
from dat_rec.runs.recorded import has_rows, load_config, other_rows
from dat_rec.storage.address import Location

DAT_NAME = "dat"
"""What the model is called in what is trained, and so in the names of a checkpoint's tensors."""


@dataclass(frozen=True)
class Trained:
    """A trained model, on CPU and without gradients, with its dataset."""

    model: DAT
    """Its tables are ``DividedTables``: all ranks must call it together."""
    dataset: Dataset
    """Of the training; or another one, with ``matched``."""
    step: int
    """Number of steps done when the checkpoint was written."""
    digest: str = ""
    """SHA-256 of the checkpoint's digests and of what the rows of its tables mean."""


def without_tables(dataset: Dataset, config: TrainConfig, tower: TowerFactory | None) -> DAT:
    """Make a model whose tables are on the meta device, for queries and items alone.

    They are embedded apart: there are no negatives beside them.

    Args:
        dataset: that the model was trained on, or the run's copy of its rows.
        config: of the run.
        tower: the tower that it was trained with, if it was not dat_rec's own.

    Raises:
        UserError: the dataset's items cannot be read.
    """
    meta = torch.device("meta")
    model = DAT(dataset.schema, config.model, embedding_device=meta, tower=tower)
    model.popularity_R = popularity_of_rows(dataset, config.loss)
    return model


def load_model(
    run: Path,
    data: Location | None = None,
    checkpoint: str = "newest",
    tower: TowerFactory | None = None,
    *,
    match: bool = False,
) -> Trained:
    """Load the model of a whole checkpoint of the run, with a dataset.

    All ranks call this together; without a process group, one process does so alone.

    Args:
        run: folder that ``dat-rec train`` made.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: the number of its steps, ``best`` or ``newest``, as of ``chosen_whole``.
        tower: the tower that the run was trained with, if it was not dat_rec's own.
        match: take ``data`` also where its rows mean other ids and values than the run's, which are
            matched then.

    Raises:
        UserError: there is no such whole checkpoint, or the dataset or the tower is not that of the
            training, or cannot be matched with it.
    """
    with together():
        config = load_config(run)
        counts = keeps_counts(run / ROWS)
    found = chosen_whole(run, checkpoint)
    if found is None:
        raise UserError(f"{run}: no whole checkpoint yet: go on with `dat-rec train … --resume`")
    with together():
        dataset = Dataset.open(data or config.data)
        matched = None
        if rank_and_ranks()[0] == 0:
            matched = _matched_rows(run, dataset, match=match and data is not None)
    facts = [to_json(config), counts, str(dataset.schema), dataset.versions()]
    check_same_on_all_ranks(json.dumps(facts), "the run or the dataset")
    # Ids that were trained as unknown are encoded as unknown.
    dataset = dataclasses.replace(dataset, bad_ids=config.examples.bad_ids)
    if match:
        dataset = _in_rows_of_run(dataset, broadcast_from_rank_0(matched))
    with together():
        schema = dataclasses.replace(dataset.schema, dense=dense_of_run(run, dataset))
        dataset = dataclasses.replace(dataset, schema=schema)
        trained_on = _trained_on(run, config, dataset, counts=counts)
        model = without_tables(trained_on, config, tower)

    def load() -> None:
        _, files = read_index(found.folder)
        for name, tables in collections.items():
            tables.load(files, f"tables/{DAT_NAME}.{name}")
        load_towers(files, nn.ModuleDict({DAT_NAME: model}))

    model.embeddings = DividedTables(model.embeddings)
    collections = {"embeddings": model.embeddings}
    if model.augmented is not None:
        model.augmented = DividedTables(model.augmented)
        collections["augmented"] = model.augmented
    problem = f"{found.folder}: does not fit the model"
    read_together(load, found.folder, problem, CURE)
    with together():
        digest = hashlib.sha256((found.folder / DIGESTS).read_bytes())
        digest.update(str(read_config(run).get("row_digest")).encode())
    return Trained(model.requires_grad_(False).eval(), dataset, found.step, digest.hexdigest())


def _matched_rows(run: Path, dataset: Dataset, *, match: bool) -> MatchedRows | None:
    """Match the dataset's rows with the run's; None where they are the same.

    Raises:
        UserError: they cannot be matched, or are not to be.
    """
    digest = dataset.row_digest()
    if has_rows(run, digest):
        return None
    if not match:
        raise other_rows(run, dataset)
    return match_rows(run, dataset, digest)


def _in_rows_of_run(dataset: Dataset, matched: MatchedRows | None) -> Dataset:
    """The dataset, its features read in the run's numbers where they are matched."""
    if matched is None:
        return dataset
    schema = dataclasses.replace(dataset.schema, features=matched.features)
    return dataclasses.replace(dataset, schema=schema, matched=matched)


def _trained_on(run: Path, config: TrainConfig, dataset: Dataset, *, counts: bool) -> Dataset:
    """What tells sizes of tables and popularity: the run's copy of its rows, which has its counts.

    A run of a release that kept no counts takes those of a dataset with the same rows.

    Raises:
        UserError: such a run is to score another dataset, and needs them.
    """
    own = dataclasses.replace(dataset, folder=run / ROWS, matched=None)
    if dataset.matched is not None:
        own = dataclasses.replace(own, schema=Schema.load(run))
    if counts:
        return own
    if dataset.matched is None:
        return dataset
    if config.loss.popularity_weight():
        raise UserError(
            f"{run}: does not say how often its items were trained on (an older release made it), "
            f"which is a part of its scores: {dataset.folder} has other counts: evaluate on the "
            "dataset of the training, or train anew"
        )
    return own
