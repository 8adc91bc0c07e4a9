"""Write an evaluation's figures to a run's TensorBoard, beside the curves of its training."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from dat_rec.runs.figures import BLOCKS, CUTOFFS, USER_FIGURES


def log_metrics(run: Path, metrics: dict[str, Any]) -> None:
    """Write an evaluation's figures to ``RUN/tensorboard``, beside the curves of the training.

    Args:
        run: folder of a run that has ended: TensorBoard reads one file of a folder after another,
            and would not come back to that of a training that goes on.
        metrics: what metrics.json holds.
    """
    names = {**dict.fromkeys(BLOCKS, CUTOFFS), "per_user": USER_FIGURES}
    with SummaryWriter(str(run / "tensorboard")) as writer:
        for block, of_block in names.items():
            for name in of_block:
                if (value := metrics[block].get(name)) is not None:
                    writer.add_scalar(tag(block, name), value, metrics["checkpoint"])


def tags() -> list[str]:
    """Return the curves that ``log_metrics`` writes."""
    return [
        *(tag(block, name) for block in BLOCKS for name in CUTOFFS),
        *(tag("per_user", name) for name in USER_FIGURES),
    ]


def tag(block: str, name: str) -> str:
    """Return the curve of a figure of the test: block and name, as in metrics.json."""
    return f"evaluation/{block}/{name}"
