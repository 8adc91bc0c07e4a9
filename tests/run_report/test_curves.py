"""Curves of TensorBoard's files, also of a run that was killed and resumed."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from dat_rec.run_report.curves import read_curves, thinned


def test_what_a_resumed_run_repeats_counts_once(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (1, 2, 3, 4):
            writer.add_scalar("loss/main", step, step)
    with SummaryWriter(str(tmp_path), purge_step=3, filename_suffix=".second") as writer:
        for step in (3, 4, 5):
            writer.add_scalar("loss/main", 10 * step, step)
    assert read_curves(tmp_path) == {"loss/main": [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]}


def test_a_file_that_ends_within_a_point_is_read_up_to_there(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 9):
            writer.add_scalar("loss/main", step, step)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    found = read_curves(tmp_path)["loss/main"]
    assert found == [(step, step) for step in range(1, 8)]
    assert read_curves(tmp_path / "none") == {}


@pytest.mark.parametrize("points", [1, 4, 5, 6, 7, 50, 97])
def test_a_long_curve_is_means_of_neighbours_and_its_last_point(points: int) -> None:
    curve = [(float(step), float(step * step)) for step in range(points)]
    found = thinned(curve, 5)
    assert len(found) <= 5
    assert found[-1] == curve[-1]
    if points <= 5:
        assert found == curve
        return
    begin = -1.0
    for step, value in found[:-1]:
        block = [y for x, y in curve if begin < x <= step]
        assert value == pytest.approx(sum(block) / len(block))
        begin = step
    assert begin == points - 2
