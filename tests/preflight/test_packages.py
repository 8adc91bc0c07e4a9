"""Which packages go together, are missing, or stand in another's way."""

from pathlib import Path

import pytest

from dat_rec.preflight.packages import (
    check_other_packages,
    check_package,
    check_torch_stack,
    fbgemm_build,
)
from dat_rec.preflight.report import Check
from dat_rec.versions import INSTALL
from tests.test_doctor import plant

SOUND = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}


def test_a_package_beside_the_script_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "duckdb", "")
    monkeypatch.syspath_prepend(tmp_path)
    check = check_package("duckdb", "9.9")
    assert check.level == "problem"
    assert check.cure == f"mv {tmp_path / 'duckdb'} {tmp_path / 'duckdb'}.aside"
    assert check_package("faiss-cpu", "1") == Check("versions", "faiss-cpu", "ok", "1")


def problems(installed: dict[str, str], kind: str = "cpu") -> dict[str, tuple[str, str | None]]:
    return {
        check.name: (check.found, check.cure)
        for check in check_torch_stack(installed, kind)
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
    (pair,) = (check for check in check_torch_stack(unknown, "cpu") if check.name == "pair")
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
    checks = {check.name: check for check in check_other_packages({"numpy": "2.4.6"})}
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
    assert fbgemm_build({"torch": installed}, {"torch": probe}, gpu) == kind
