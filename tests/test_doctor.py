"""The doctor beside real and really broken libraries: each is put before the sound one."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from dat_rec import doctor
from dat_rec.install import CHECKOUT
from dat_rec.preflight.packages import minimum_versions
from dat_rec.preflight.probes import run_probes
from dat_rec.versions import INSTALL


def plant(folder: Path, package: str, program: str) -> dict[str, str]:
    """Put a broken ``package`` before the installed one; gives the environment to run in."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(program)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{CHECKOUT}"}


def run_doctor(environment: dict[str, str]) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and checks by name (the backend's, where a version has the same name)."""
    done = subprocess.run(
        [sys.executable, "-m", "dat_rec.doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_here_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert "PROBLEM" not in printed
    assert printed.endswith("all is well\n")
    assert "torch, torchrec and FBGEMM belong together" in printed
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert re.search(rf"ok +training +1 step on {device}\n", printed)


def test_a_torch_that_does_not_load_is_reported(tmp_path: Path) -> None:
    program = "raise OSError('cannot load\\nmore') from OSError('undefined symbol: _ZN3c104cuda')"
    code, checks = run_doctor(plant(tmp_path, "torch", program))
    assert code == 2
    assert checks["torch"]["level"] == "problem"
    found = checks["torch"]["found"]
    assert found == "OSError: cannot load ← OSError: undefined symbol: _ZN3c104cuda"
    assert checks["torch"]["cure"] == INSTALL
    assert checks["gloo"]["level"] == checks["fbgemm"]["level"] == "problem"
    assert checks["duckdb"]["level"] == "ok"


def test_an_fbgemm_that_crashes_costs_only_its_line(tmp_path: Path) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    code, checks = run_doctor(plant(tmp_path, "fbgemm_gpu", program))
    assert code == 2
    assert checks["torch"]["level"] == checks["gloo"]["level"] == "ok"
    assert checks["fbgemm"]["found"] == "crashed or hung here"
    assert " -m pip uninstall -y fbgemm-gpu-cpu fbgemm-gpu && " in checks["fbgemm"]["cure"]
    assert checks["torchrec"]["found"] == "not tried: an earlier one crashed"
    assert checks["training"]["level"] == "problem"


def test_a_package_before_the_installed_one_is_told_with_both_places(tmp_path: Path) -> None:
    code, checks = run_doctor(plant(tmp_path, "numpy", "__version__ = '0.1'"))
    assert code == 2
    numpy = checks["numpy"]
    site = Path(str(metadata.distribution("numpy").locate_file("")))
    assert numpy["level"] == "problem"
    version = metadata.version("numpy")
    assert numpy["found"] == f"Python imports {tmp_path / 'numpy'}, not {version} in {site}"
    assert numpy["cure"] == "unset PYTHONPATH"
    assert checks["duckdb"]["level"] == "ok"


def test_of_two_installed_releases_the_one_that_is_imported_counts(tmp_path: Path) -> None:
    environment = plant(tmp_path, "numpy", "__version__ = '1.26.4'")
    (tmp_path / "numpy-1.26.4.dist-info").mkdir()
    text = "Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n"
    (tmp_path / "numpy-1.26.4.dist-info" / "METADATA").write_text(text)
    code, checks = run_doctor(environment)
    assert code == 2
    least = minimum_versions()["numpy"]
    assert checks["numpy"]["found"] == f"1.26.4, at least {least} is needed"
    assert checks["numpy"]["cure"] == INSTALL


def test_a_rank_among_others_tries_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    level, found = run_probes("dat_rec.doctor")["training"]
    assert (level, found.partition(" on ")[0]) == ("ok", "1 step")


def test_it_needs_nothing_but_python() -> None:
    program = (
        "import dat_rec.doctor as d; print(*d.check_torch_stack(d.installed_versions(), 'cpu'))"
    )
    done = subprocess.run(
        # -S: no site-packages.
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
