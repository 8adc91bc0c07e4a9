"""A run's folder in, its trained model out: unsharded, on CPU, for evaluation and export."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from dat_rec.config import TrainConfig, from_json
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import read_json
from dat_rec.model.dat import DAT
from dat_rec.train.checkpoint import chosen_whole, load_weights
from dat_rec.train.objective import TrainTask


def load_config(run: Path) -> TrainConfig:
    """The configuration that the run was made with.

    Raises:
        UserError: the folder holds no run, or a malformed one.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(f"{run} is not a run (no config.json): make one with `dat-rec train`")
    return from_json(read_json(path, "the run's configuration"), str(path))


@dataclass(frozen=True)
class Trained:
    """A run, loaded: the model unsharded and on CPU, without gradients."""

    model: DAT
    dataset: Dataset
    step: int
    """Steps done when the checkpoint was written."""


def load_model(run: Path, data: Path | None = None, checkpoint: str = "newest") -> Trained:
    """The model of a whole checkpoint of the run, with the dataset that it was trained on.

    Args:
        run: folder that ``dat-rec train`` made.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: of ``chosen_whole``: steps, ``best`` or ``newest``.

    Raises:
        UserError: no such whole checkpoint, or another dataset than that of the training.
    """
    config = load_config(run)
    found = chosen_whole(run, checkpoint)
    if found is None:
        raise UserError(f"{run}: no whole checkpoint yet: go on with `dat-rec train … --resume`")
    step, folder = found
    dataset = Dataset.open(data or config.data)
    check_same_rows(run, dataset)
    # On CPU, and to be encoded with: float16 tables become float32.
    shape = dataclasses.replace(config.model, fp16_tables=())
    # Queries and items are embedded apart from now on: no negatives beside them.
    loss = dataclasses.replace(config.loss, negatives=0, shared_negatives=0)
    task = TrainTask(dataset.schema, shape, loss)
    load_weights(folder, task)
    # What was trained as unknown is encoded as unknown.
    dataset = dataclasses.replace(dataset, bad_ids=config.examples.bad_ids)
    return Trained(task.dat.requires_grad_(False).eval(), dataset, step)


def check_same_rows(run: Path, dataset: Dataset) -> None:
    """Refuse a dataset whose ids and values have other embedding rows than the run's.

    Raises:
        UserError: they differ, or the run does not say.
    """
    facts = read_json(run / "config.json", "the run's configuration")
    if facts.get("row_digest") != dataset.row_digest():
        raise UserError(
            f"{dataset.folder}: not the dataset that {run} was trained on: its users, items or "
            "values stand in other embedding rows: name that dataset with --data, or train anew "
            "with --warm-start"
        )
