"""What several tests of whole commands share."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A disk of that size."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs (root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


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
