"""The dense features of a run's towers, and whether another dataset has them."""

from pathlib import Path

from dat_rec.data.dataset import Dataset
from dat_rec.data.schema import SCHEMA, DenseFeature, Schema
from dat_rec.errors import UserError

Kind = tuple[str, str, str, int]


def dense_kinds(schema: Schema) -> list[Kind]:
    """What the dense features of a dataset are, but for mean and scale."""
    return [(one.name, one.side, one.kind, one.width) for one in schema.dense]


def dense_of_run(run: Path, dataset: Dataset) -> tuple[DenseFeature, ...]:
    """The dense features that the towers of a run take, with the mean and scale of its training.

    Other mean and scale, of another dataset, would make other vectors of the same values.

    Args:
        run: folder of the run.
        dataset: that of the training, or another one.

    Raises:
        UserError: the dataset lacks one, or has it in another form.
    """
    if not (run / SCHEMA).exists():
        return dataset.schema.dense
    then = Schema.load(run)
    now = dense_kinds(dataset.schema)
    for kind in dense_kinds(then):
        if kind not in now:
            name, side, what, width = kind
            raise UserError(
                f"{dataset.folder}: has no dense feature {name!r} ({what} of width {width} for the "
                f"{side} tower), which {run} was trained with: prepare it with --dense {name}"
            )
    return then.dense
