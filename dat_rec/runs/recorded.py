"""What a run was made with: its configuration, and the meaning of its embedding rows."""

from pathlib import Path

from dat_rec.config import TrainConfig, from_json
from dat_rec.data.dataset import Dataset
from dat_rec.errors import UserError
from dat_rec.runs.figures import read_config


def load_config(run: Path) -> TrainConfig:
    """Return the configuration that the run was made with.

    Raises:
        UserError: the folder holds no run, or config.json is malformed.
    """
    return from_json(read_config(run), str(run / "config.json"))


def check_same_rows(run: Path, dataset: Dataset) -> None:
    """Refuse a dataset whose ids and values have other embedding rows than the run's.

    Raises:
        UserError: the rows differ, or config.json does not state their digest.
    """
    if not has_rows(run, dataset.row_digest()):
        raise other_rows(run, dataset)


def has_rows(run: Path, digest: str) -> bool:
    """Whether a dataset with this ``row_digest`` has the embedding rows of the run."""
    return bool(read_config(run).get("row_digest") == digest)


def other_rows(run: Path, dataset: Dataset) -> UserError:
    """Return the refusal of a dataset with other embedding rows than the run's."""
    return UserError(
        f"{dataset.folder}: not the dataset that {run} was trained on: its users, items or "
        "values stand in other embedding rows: name that dataset with --data, or train anew "
        "with --warm-start"
    )
