from pathlib import Path

import pytest

from dat_rec.retrieval.export import export
from tests.retrieval.world import write_dataset, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset made by hand."""
    root = tmp_path_factory.mktemp("retrieval")
    return write_run(root / "run", write_dataset(root / "data"))


@pytest.fixture(scope="session")
def exported(run: Path) -> Path:
    """The run's export; read it, do not change it."""
    export(run, run.parent / "export")
    return run.parent / "export"
