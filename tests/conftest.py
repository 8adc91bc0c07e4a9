"""What every test shares: planted worlds, prepared once, and the skip of ``gpu`` tests."""

import gc
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from dat_rec.data.dataset import Dataset
from dat_rec.data.prepare.pipeline import prepare
from dat_rec.data.sources.synthetic import Synthetic
from dat_rec.storage.client import forget_clients
from tests.object_store import ObjectStore, why_not

# Nothing of what the tests import is garbage: to look for some would take a third of the imports'
# time, and more in every test.
gc.disable()

# A shell that starts pytest in the background has it ignore Ctrl-C, and its children too;
# the tests that interrupt a command need the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small planted world, for what needs a dataset and not its quality."""
    folder = tmp_path_factory.mktemp("planted") / "data"
    prepare(Synthetic(out=folder, users=300, items=200, interactions=9_000, categories=5))
    return Dataset.open(folder)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    if "tests.distributed.ranks" in sys.modules:
        # Now, from the checkout: a server that a test begins in a folder of its own finds no
        # `tests` to import, says nothing, and each of its processes imports torch again.
        forkserver.ensure_running()


def pytest_unconfigure() -> None:
    """Let go of what was frozen: DuckDB counts what is left at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server, one for all tests of this process."""
    if reason := why_not():
        pytest.skip(reason)
    server = ObjectStore(tmp_path_factory.mktemp("store"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def object_store(
    object_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """The same, with its endpoint and keys in the environment of this test."""
    for name, value in object_server.variables.items():
        monkeypatch.setenv(name, value)
    yield object_server
    forget_clients()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have measured (``record_property("figure", …)``)."""
    reports = terminalreporter.getreports("passed")
    figures = [text for report in reports for name, text in report.user_properties]
    if figures:
        terminalreporter.section("measured")
        for text in figures:
            terminalreporter.line(str(text))


LONG = (
    *("launch/test_slurm", "launch/test_elastic", "test_readme", "end_to_end/test_survival"),
    *("daily/test_driver", "end_to_end/test_disk", "end_to_end/test_fence"),
    *("end_to_end/test_failure_record", "end_to_end/test_store", "distributed/test_moves"),
    *("end_to_end/test_memory", "end_to_end/test_delta", "benchmarks/test_quality"),
)
"""Files that take longest. They begin first: a file is one worker's, for whom all others would
wait at the end."""


def _place(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
    return LONG.index(name) if name in LONG else len(LONG)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU that torch can use"))
