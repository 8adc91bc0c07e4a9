"""The keeping of .venv, with real virtual environments; and the pins against each other.

Only the filling with packages is replaced, since it takes minutes and the network: `make`
itself goes that way before any test can run.
"""

import configparser
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pip
import pytest

from dat_rec import install
from dat_rec.install import CHECKOUT, CONSTRAINTS, STAMPED, InstallError
from dat_rec.versions import DEFAULT, FBGEMM, PAIRS, STACK, release
from tests.install_check import sources


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual environments get a link to this environment's pip: a second less each."""
    create = venv.create

    def create_quickly(folder: Path, with_pip: bool) -> None:
        assert with_pip
        create(folder, symlinks=True)
        packages = folder / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
        (packages / "pip").symlink_to(Path(pip.__file__).parent)

    monkeypatch.setattr(install.venv, "create", create_quickly)


@pytest.fixture
def fills(quick: None, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Instead of installing: the Pythons that would have been filled."""
    filled: list[Path] = []
    monkeypatch.setattr(install, "fill", lambda python, torch: filled.append(python))
    return filled


def starts(folder: Path) -> bool:
    return subprocess.run([folder / "bin" / "python", "-c", ""], check=False).returncode == 0


def test_a_current_environment_is_left_alone(tmp_path: Path, fills: list[Path]) -> None:
    install.keep_venv(tmp_path / "v")
    assert starts(tmp_path / "v")
    assert fills == [tmp_path / "v" / "bin" / "python"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "v").rglob("*")}
    install.keep_venv(tmp_path / "v")
    assert len(fills) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "v").rglob("*")} == before


def test_a_stale_one_is_updated_in_place(tmp_path: Path, fills: list[Path]) -> None:
    install.keep_venv(tmp_path / "v", "2.11.0")
    (tmp_path / "v" / "kept").touch()
    install.keep_venv(tmp_path / "v", "2.13.0")
    assert len(fills) == 2
    assert (tmp_path / "v" / "kept").exists()


def test_one_cut_off_half_made_is_made_anew(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(python: Path, torch: str) -> None:
        (tmp_path / "v" / "rubbish").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "fill", interrupt)
    with pytest.raises(KeyboardInterrupt):
        install.keep_venv(tmp_path / "v")
    filled: list[Path] = []
    monkeypatch.setattr(install, "fill", lambda python, torch: filled.append(python))
    install.keep_venv(tmp_path / "v")
    assert filled
    assert starts(tmp_path / "v")
    assert not (tmp_path / "v" / "rubbish").exists()


def test_one_that_was_moved_is_made_anew(tmp_path: Path, fills: list[Path]) -> None:
    install.keep_venv(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "new" / "rubbish").touch()
    install.keep_venv(tmp_path / "new")
    assert len(fills) == 2
    assert not (tmp_path / "new" / "rubbish").exists()


def test_one_whose_python_is_gone_is_made_anew(tmp_path: Path, fills: list[Path]) -> None:
    install.keep_venv(tmp_path / "v")
    (tmp_path / "v" / "bin" / "python").unlink()
    install.keep_venv(tmp_path / "v")
    assert len(fills) == 2
    assert starts(tmp_path / "v")


def test_one_that_does_not_work_after_an_update_is_made_anew(
    tmp_path: Path, fills: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install.keep_venv(tmp_path / "v", "2.11.0")
    (tmp_path / "v" / "rubbish").touch()

    def fill(python: Path, torch: str) -> None:
        if (tmp_path / "v" / "rubbish").exists():
            raise InstallError("trying FBGEMM failed")

    monkeypatch.setattr(install, "fill", fill)
    install.keep_venv(tmp_path / "v")
    assert not (tmp_path / "v" / "rubbish").exists()


def test_the_users_own_is_added_to_and_never_removed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.venv.create(tmp_path / "v", with_pip=True)
    (tmp_path / "v" / "mine").touch()

    def fail(python: Path, torch: str) -> None:
        raise InstallError("no network")

    monkeypatch.setattr(install, "fill", fail)
    for _ in range(2):
        with pytest.raises(InstallError):
            install.keep_venv(tmp_path / "v")
        assert (tmp_path / "v" / "mine").exists()


def test_a_folder_of_other_things_is_refused(tmp_path: Path, fills: list[Path]) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InstallError, match="is no virtual environment: move it away"):
        install.keep_venv(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    assert not fills


@pytest.mark.parametrize("changed", STAMPED)
def test_a_changed_pin_makes_the_environment_stale(tmp_path: Path, changed: str) -> None:
    (tmp_path / "dat_rec").mkdir()
    for name in STAMPED:
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    before = install.digest("2.13.0", False, tmp_path)
    assert install.digest("2.13.0", False, tmp_path) == before
    assert install.digest("2.13.0", True, tmp_path) != before
    (tmp_path / changed).write_text("other")
    assert install.digest("2.13.0", False, tmp_path) != before


def test_pips_failure_is_shown_with_a_cure(capfd: pytest.CaptureFixture[str]) -> None:
    absent = ["--retries", "0", "--no-index", "dat-rec-no-such-package==9"]
    with pytest.raises(InstallError) as raised:
        install._install(Path(sys.executable), absent, "nothing")
    assert "nothing failed:" in str(raised.value)
    assert "dat-rec-no-such-package==9" in str(raised.value)
    assert "Cure: see whether `pip config list` names an index" in str(raised.value)
    assert capfd.readouterr().out == "  nothing …\n"


def test_a_gpu_is_seen_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not install.nvidia_gpu_present(tmp_path)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-1)'\n")
    smi.chmod(0o755)
    assert install.nvidia_gpu_present(tmp_path)
    smi.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert not install.nvidia_gpu_present(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert install.nvidia_gpu_present(tmp_path)


@pytest.mark.parametrize(
    ("torch_cuda", "gpu", "kind"),
    [(None, False, "cpu"), (None, True, "cpu"), ("13.0", False, "cpu"), ("13.0", True, "cuda")],
)
def test_the_cuda_fbgemm_needs_a_gpu_and_a_cuda_torch(
    torch_cuda: str | None, gpu: bool, kind: str
) -> None:
    assert install.fbgemm_kind(torch_cuda, gpu) == kind


def required() -> dict[str, str]:
    """Condition on the version, by distribution in setup.cfg's install_requires."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", "utf-8")
    lines = config["options"]["install_requires"].split("\n")
    # ConfigParser keeps indented comments; setuptools drops them as pip would.
    found = [re.fullmatch(r"([\w-]+)([=>]=.+)", line) for line in lines if line and line[0] != "#"]
    return {match[1]: match[2] for match in found if match}


def constraints() -> dict[str, str]:
    pins = [line.split("==") for line in CONSTRAINTS.read_text("utf-8").splitlines()]
    return {name.lower().replace("_", "-"): version for name, version in pins}


def test_plain_pip_takes_the_newest_set_with_cuda() -> None:
    newest = next(iter(PAIRS))
    assert newest == DEFAULT["cuda"]
    wanted = (newest, PAIRS[newest].torchrec, PAIRS[newest].fbgemm)
    names = ("torch", "torchrec", FBGEMM["cuda"])
    assert {name: line for name, line in required().items() if name in STACK} == {
        name: "=={}.{}.*".format(*release(version))
        for name, version in zip(names, wanted, strict=True)
    }


def test_no_set_is_named_but_in_the_table() -> None:
    assert not set(STACK) & set(constraints())
    for path in ("setup.cfg", "pyproject.toml", "Makefile", "launch/Dockerfile"):
        text = (CHECKOUT / path).read_text("utf-8")
        assert not re.findall(r"(?:torch|torchrec|fbgemm-gpu)==\d+\.\d+\.\d\S*", text), path
    releases = {*PAIRS, *(pair.torchrec for pair in PAIRS.values())}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", one) for one in releases)


UNPINNED = 'extra == "mlflow"'
"""It cannot stand beside what `dev` brings (setup.cfg)."""


def test_constraints_pin_all_that_is_installed_on_our_behalf() -> None:
    """Walks what dat_rec asks for, from package to package, as pip does."""
    pins = constraints()
    to_do, done = ["dat-rec"], set[str]()
    while to_do:
        name = to_do.pop()
        done.add(name)
        for line in metadata.requires(name) or []:
            wanted, _, marker = line.partition(";")
            asked = re.match(r"[\w.-]+", wanted)[0].lower().replace("_", "-")  # type: ignore[index]
            ours = name == "dat-rec" and "extra ==" in marker and UNPINNED not in marker
            # `pip freeze` leaves out what every environment may have.
            if asked in (*STACK, *done, "setuptools") or (marker and not ours):
                continue
            assert pins[asked] == metadata.version(asked), f"{name} asks for {line}"
            to_do.append(asked)
    assert len(done) > 50


def test_the_least_releases_are_not_above_those_tested() -> None:
    for name, condition in required().items():
        if name not in STACK:
            least = condition.removeprefix(">=")
            assert release(least) <= release(constraints()[name]), name


def test_a_wheel_carries_the_constraints_and_the_installer(tmp_path: Path) -> None:
    sources(tmp_path)
    install._run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path], "wheel"
    )
    (wheel,) = tmp_path.glob("dat_rec-*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    assert (tmp_path / "site/dat_rec/constraints.txt").read_bytes() == CONSTRAINTS.read_bytes()
    # Without site-packages, and from another folder.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "dat_rec.install", "--help"],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path / "site" / "launch",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_torchrec_asks_for_is_installed_for_its_own_sake() -> None:
    """TorchRec itself is installed without its dependencies."""
    asked = install._run([sys.executable, "-c", install.ASKED_FOR, "launch"], "asking").split("\n")
    assert "torchmetrics==1.0.3" in asked
    assert "torchx>=0.7" in asked
    assert "duckdb" + required()["duckdb"] in asked
    assert not any(line.startswith(("torch=", "torchrec", "fbgemm", "mypy")) for line in asked)


@pytest.mark.parametrize(
    ("here", "gpu", "torch"),
    [
        ("2.14.1+cu130", False, "2.14.1"),
        ("2.11.0a0", True, "2.11.0"),
        ("2.9.1", True, DEFAULT["cuda"]),
        (None, False, DEFAULT["cpu"]),
        (None, True, DEFAULT["cuda"]),
    ],
)
def test_a_torch_that_is_there_is_kept(
    monkeypatch: pytest.MonkeyPatch, here: str | None, gpu: bool, torch: str
) -> None:
    monkeypatch.setattr(install, "version_of", lambda name: here)
    assert install.default_torch(gpu) == torch
