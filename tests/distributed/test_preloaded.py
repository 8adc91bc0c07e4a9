"""The server from which tests fork their processes has imported what these need."""

import sys
from pathlib import Path

import pytest

from tests.distributed.ranks import run_ranks


def has_preloaded() -> bool:
    return "tests.distributed.preloaded" in sys.modules


def test_processes_are_forked_from_a_server_that_has_imported_all_wherever_a_test_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_ranks(has_preloaded, 1) == [True]
