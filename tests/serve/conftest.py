from collections.abc import Iterator
from pathlib import Path

import pytest

from dat_rec.retrieval.export import export
from tests.retrieval.raw_log import RawLog, write_raw_log
from tests.retrieval.world import write_dataset, write_run
from tests.serve.server import Server, serving


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> RawLog:
    """A log with features of every type, and a run of random weights."""
    return write_raw_log(tmp_path_factory.mktemp("served"), text_ids=True)


@pytest.fixture(scope="session")
def exported(log: RawLog) -> Path:
    """An export that knows raw values and can blend own history in; do not change it."""
    export(log.run, log.run.parent / "export", blend_history=True)
    return log.run.parent / "export"


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two exports of the same users and items, whose lists differ."""
    root = tmp_path_factory.mktemp("others")
    data = write_dataset(root / "data")
    for name, augment in (("a", True), ("b", False)):
        export(write_run(root / f"run-{name}", data, augment=augment), root / name)
    return root / "a", root / "b"


@pytest.fixture(scope="session")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of ``exported`` that everybody may ask."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(exported, log, "--max-users", "50", "--max-k", "500") as found:
        yield found
