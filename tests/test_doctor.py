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
from dat_rec.preflight import probes
from dat_rec.preflight.report import Check
from dat_rec.versions import INSTALL

SOUND = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}


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
    least = doctor.least_versions()["numpy"]
    assert checks["numpy"]["found"] == f"1.26.4, at least {least} is needed"
    assert checks["numpy"]["cure"] == INSTALL


def test_a_package_beside_the_script_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "duckdb", "")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package("duckdb", "9.9")
    assert check.level == "problem"
    assert check.cure == f"mv {tmp_path / 'duckdb'} {tmp_path / 'duckdb'}.aside"
    assert doctor.check_package("faiss-cpu", "1") == Check("versions", "faiss-cpu", "ok", "1")


def test_a_rank_among_others_tries_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    level, found = probes.run_probes("dat_rec.doctor")["training"]
    assert (level, found.partition(" on ")[0]) == ("ok", "1 step")


def test_a_library_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "torch", "import time; time.sleep(60)")
    # The child looks where this process does, whatever PYTHONPATH says.
    monkeypatch.syspath_prepend(tmp_path)
    assert probes.run_probes(timeout_s=5) == {"torch": ("problem", "crashed or hung here")}


def test_it_needs_nothing_but_python() -> None:
    program = "import dat_rec.doctor as d; print(d.check_pair(d.installed_versions(), 'cpu'))"
    done = subprocess.run(
        # -S: no site-packages.
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def problems(installed: dict[str, str], kind: str = "cpu") -> dict[str, tuple[str, str | None]]:
    return {
        check.name: (check.found, check.cure)
        for check in doctor.check_pair(installed, kind)
        if check.level == "problem"
    }


def test_a_sound_pair_has_no_problem() -> None:
    assert not problems(SOUND)
    assert not problems({"torch": "2.11.0", "torchrec": "1.6.1", "fbgemm-gpu": "1.6.0"}, "cuda")


def test_a_wrong_pair_names_the_right_one() -> None:
    found, cure = problems({**SOUND, "torchrec": "1.9.2"})["pair"]
    assert found.endswith("this torch needs torchrec 1.8.0 and FBGEMM 1.8.0")
    assert cure == f"{INSTALL} --torch 2.13.0"


def test_an_unknown_torch_with_partners_of_a_known_one_is_a_problem() -> None:
    found, cure = problems({**SOUND, "torch": "2.15.0"})["pair"]
    assert found.endswith("no set with this torch is known")
    assert cure == f"{INSTALL} --torch 2.13.0"


def test_a_set_that_nobody_tested_is_noted() -> None:
    unknown = {"torch": "2.15.0", "torchrec": "1.10.0", "fbgemm-gpu-cpu": "1.10.0"}
    (pair,) = (check for check in doctor.check_pair(unknown, "cpu") if check.name == "pair")
    assert (pair.level, pair.found) == (
        "note",
        "torch 2.15.0 is in no tested pair (tested: 2.14.1, 2.13.0, 2.11.0)",
    )


def test_two_builds_over_one_another_are_a_problem() -> None:
    found, cure = problems({**SOUND, "fbgemm-gpu": "1.9.0"})["fbgemm-gpu"]
    assert "1.9.0 is installed over fbgemm-gpu-cpu" in found
    assert cure == INSTALL


def test_what_is_missing_is_named() -> None:
    assert problems({}) == dict.fromkeys(
        ("torch", "torchrec", "fbgemm-gpu-cpu"), ("not installed", INSTALL)
    )


def test_a_missing_optional_package_is_only_a_note() -> None:
    checks = {check.name: check for check in doctor.check_versions({"numpy": "2.4.6"})}
    assert checks["torchx"].level == "note"
    assert "extra `launch`" in checks["torchx"].found
    assert checks["torchx"].cure == f"{INSTALL} --extras launch"
    assert checks["duckdb"].level == "problem"


@pytest.mark.parametrize(
    ("installed", "probe", "gpu", "kind"),
    [
        ("2.13.0", ("ok", "2.13.0, built for 13.0"), True, "cuda"),
        ("2.13.0", ("ok", "2.13.0, built for 13.0"), False, "cpu"),
        ("2.13.0+cpu", ("ok", "2.13.0+cpu, built for cpu"), True, "cpu"),
        ("2.13.0+cpu", ("problem", "OSError: …"), True, "cpu"),
        ("2.13.0", ("problem", "OSError: …"), True, "cuda"),
    ],
)
def test_the_wanted_fbgemm(installed: str, probe: tuple[str, str], gpu: bool, kind: str) -> None:
    assert doctor.wanted_kind({"torch": installed}, {"torch": probe}, gpu) == kind


def test_missing_shared_memory_is_noted(tmp_path: Path) -> None:
    shm = tmp_path / "shm"
    checks = {check.name: check for check in doctor.check_space(tmp_path, shm)}
    assert checks["disk here"].found.endswith("GiB free")
    assert checks[str(shm)].level == "note"


@pytest.mark.gpu
def test_fbgemm_and_nccl_work_on_the_gpu() -> None:
    found = probes.run_probes()
    assert found["fbgemm"] == ("ok", "computes on cpu and cuda")
    assert found["nccl"] == ("ok", "all-reduces")
