from pathlib import Path

import pytest

from dat_rec.retrieval import fit_blend
from dat_rec.retrieval.export import export
from tests.retrieval.world import write_dataset, write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset made by hand."""
    root = tmp_path_factory.mktemp("retrieval")
    return write_run(root / "run", write_dataset(root / "data"))


@pytest.fixture(scope="session")
def blended(run: Path) -> Path:
    """An export of the run that can blend own history in; read it, do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        # Of 45 items all would be among the first 100, under any weights.
        patch.setattr(fit_blend, "CUTOFF", 20)
        export(run, run.parent / "blended", blend_history=True)
    return run.parent / "blended"


@pytest.fixture(scope="session")
def exported(run: Path) -> Path:
    """The run's export; read it, do not change it."""
    export(run, run.parent / "export")
    return run.parent / "export"
