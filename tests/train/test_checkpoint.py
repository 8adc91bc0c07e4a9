"""Which checkpoints stay: the newest, the best, and never a damaged one in a whole one's place."""

from pathlib import Path
from typing import Any

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.parallel.process_group import process_group
from dat_rec.train.checkpoint import CheckpointWriter, checkpoints, newest_whole
from tests.distributed.exactness import Case
from tests.distributed.moves import build


def write(dataset: Dataset, run: Path, keep: int, keep_best: int, saves: list[Any]) -> None:
    """Save at the given (step, loss); a path among them is a file to damage."""
    with process_group(60) as place:
        model, optimizer = build(dataset, Case("two-tower"), place)
        writer = CheckpointWriter(run, place, keep, keep_best)
        for save in saves:
            if isinstance(save, Path):
                writer.finish()
                save.write_bytes(b"rubbish")
            else:
                writer.save(save[0], model, optimizer, {"loss": save[1]})
        writer.finish()
        writer.close()


def steps(run: Path) -> list[int]:
    return [step for step, _ in checkpoints(run)]


@pytest.mark.parametrize(
    ("keep", "keep_best", "left"),
    [
        (1, 0, [50]),
        (2, 0, [40, 50]),
        (2, 1, [20, 40, 50]),
        (1, 2, [20, 30, 50]),
        (9, 9, [*range(10, 60, 10)]),
    ],
)
def test_the_newest_stay_and_those_of_the_lowest_loss(
    keep: int, keep_best: int, left: list[int], planted: Dataset, tmp_path: Path
) -> None:
    losses = [(10, 5.0), (20, 1.0), (30, 2.0), (40, 4.0), (50, 3.0)]
    write(planted, tmp_path, keep, keep_best, losses)
    assert steps(tmp_path) == left


def test_a_damaged_later_checkpoint_does_not_drive_out_whole_ones(
    planted: Dataset, tmp_path: Path
) -> None:
    damaged = tmp_path / "checkpoints" / "step-00000030" / "checkpoint.json"
    # The run went on from step 10, for that of step 30 was damaged.
    write(planted, tmp_path, 1, 0, [(10, 1.0), (30, 1.0), damaged, (10, 1.0), (20, 1.0)])
    assert steps(tmp_path) == [20, 30]
    found = newest_whole(tmp_path, alone=True)
    assert found is not None
    assert found[0] == 20
