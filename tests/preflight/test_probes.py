"""Probes in a child process, beside libraries that hang, and on a GPU."""

from pathlib import Path

import pytest

from dat_rec.preflight.probes import run_probes
from tests.test_doctor import plant


def test_a_library_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "torch", "import time; time.sleep(60)")
    # The child looks where this process does, whatever PYTHONPATH says.
    monkeypatch.syspath_prepend(tmp_path)
    assert run_probes(timeout_s=5) == {"torch": ("problem", "crashed or hung here")}


@pytest.mark.gpu
def test_fbgemm_and_nccl_work_on_the_gpu() -> None:
    found = run_probes()
    assert found["fbgemm"] == ("ok", "computes on cpu and cuda")
    assert found["nccl"] == ("ok", "all-reduces")
