"""Load a run's trained model, unsharded and on CPU, for evaluation and export."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from dat_rec.checkpoint.find import chosen_whole
from dat_rec.checkpoint.restore import load_weights
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.model.dat import DAT
from dat_rec.model.towers import TowerFactory
from dat_rec.runs.recorded import check_same_rows, load_config
from dat_rec.storage.address import Location
from dat_rec.training.objective import TrainTask


@dataclass(frozen=True)
class Trained:
    """A trained model, unsharded, on CPU and without gradients, with its dataset."""

    model: DAT
    dataset: Dataset
    step: int
    """Number of steps done when the checkpoint was written."""


def load_model(
    run: Path,
    data: Location | None = None,
    checkpoint: str = "newest",
    tower: TowerFactory | None = None,
) -> Trained:
    """Load the model of a whole checkpoint of the run, with the dataset it was trained on.

    Args:
        run: folder that ``dat-rec train`` made.
        data: the dataset, if it is no longer where the run found it.
        checkpoint: the number of its steps, ``best`` or ``newest``, as of ``chosen_whole``.
        tower: the tower that the run was trained with, if it was not dat_rec's own.

    Raises:
        UserError: there is no such whole checkpoint, or the dataset or the tower is not that of the
            training.
    """
    config = load_config(run)
    found = chosen_whole(run, checkpoint)
    if found is None:
        raise UserError(f"{run}: no whole checkpoint yet: go on with `dat-rec train … --resume`")
    dataset = Dataset.open(data or config.data)
    check_same_rows(run, dataset)
    # On CPU, and to be encoded with: float16 tables become float32.
    shape = dataclasses.replace(config.model, fp16_tables=())
    # Queries and items are embedded apart from now on: no negatives beside them.
    loss = dataclasses.replace(config.loss, negatives=0, shared_negatives=0)
    task = TrainTask(dataset.schema, shape, loss, tower=tower)
    load_weights(found.folder, task)
    # Ids that were trained as unknown are encoded as unknown.
    dataset = dataclasses.replace(dataset, bad_ids=config.examples.bad_ids)
    return Trained(task.dat.requires_grad_(False).eval(), dataset, found.step)
