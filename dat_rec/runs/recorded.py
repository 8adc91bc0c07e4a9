"""A run's folder in, the configuration and the rows that it was made with out."""

from pathlib import Path

from dat_rec.config import TrainConfig, from_json
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.files import read_json


def load_config(run: Path) -> TrainConfig:
    """The configuration that the run was made with.

    Raises:
        UserError: the folder holds no run, or a malformed one.
    """
    path = run / "config.json"
    if not path.exists():
        raise UserError(f"{run} is not a run (no config.json): make one with `dat-rec train`")
    return from_json(read_json(path, "the run's configuration"), str(path))


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
