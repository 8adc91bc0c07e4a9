"""A few cases of ``python -m tests.fuzz``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 2])
def test_a_walk_shows_no_fault(first: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--first", str(first), "--cases", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    walked = subprocess.run(
        [*command, "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert walked.returncode == 0, walked.stderr
    summary = json.loads(walked.stdout.splitlines()[-1])
    assert (summary["cases"], summary["faults"], summary["refused"]) == (2, 0, 0)
