"""A few cases of ``python -m tests.fuzz``."""

import json
from pathlib import Path

import pytest

from tests.fuzz.__main__ import main


@pytest.mark.slow
def test_a_walk_shows_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", "--cases", "4", "--work", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().out
    assert stop.value.code == 0, said
    summary = json.loads(said.splitlines()[-1])
    assert (summary["cases"], summary["faults"], summary["refused"]) == (4, 0, 0)
