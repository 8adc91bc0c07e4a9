"""What several tests of whole commands share."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dat_rec.checkpoint.listing import checkpoints
from dat_rec.data.dataset import Dataset
from tests.end_to_end.cli import done
from tests.end_to_end.forked import on_ranks
from tests.end_to_end.launched import FLAGS, STEPS


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A disk of that size."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs (root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def undisturbed(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks that nobody disturbed, with all its checkpoints."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    keep = ("--keep-checkpoints", "100")
    done(on_ranks(2, "train", "--data", planted.folder, "--out", out, *FLAGS, *keep))
    assert [step for step, _ in checkpoints(out)] == [*range(7, STEPS, 7), STEPS]
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with less room than a checkpoint of the planted world takes."""
    with mounted(tmp_path / "small", "200k") as folder:
        yield folder


@pytest.fixture
def filled_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for many checkpoints, for a test that fills it."""
    with mounted(tmp_path / "filled", "20m") as folder:
        yield folder
