"""What is told of a machine that lacks something."""

from pathlib import Path

from dat_rec.preflight.this_machine import check_space


def test_missing_shared_memory_is_noted(tmp_path: Path) -> None:
    shm = tmp_path / "shm"
    checks = {check.name: check for check in check_space(tmp_path, shm)}
    assert checks["disk here"].found.endswith("GiB free")
    assert checks[str(shm)].level == "note"
