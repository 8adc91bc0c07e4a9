"""Commands in environments where something is missing: one line with the cure, no traceback.

The environments are real: site-packages of links to this environment's own, with a package left
out, another's version, or a library that does not load.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from dat_rec import versions
from dat_rec.install import CHECKOUT
from dat_rec.versions import INSTALL

FBGEMM_HERE = next(name for name in versions.FBGEMM.values() if versions.version_of(name))
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Links to all that is installed here."""
    folder = tmp_path / "site"
    folder.mkdir()
    for path in Path(str(metadata.distribution("torch").locate_file(""))).iterdir():
        # Without .pth files, which would find this checkout and more.
        if path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Run ``dat-rec`` with nothing but ``site``."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", "-P", "-m", "dat_rec", *arguments],
            env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{CHECKOUT}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def leave_out(site: Path, *patterns: str) -> None:
    for pattern in patterns:
        found = list(site.glob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()


def pretend(site: Path, distribution: str, version: str) -> None:
    """Have metadata say that a distribution is there in this version."""
    name = distribution.replace("-", "_")
    for path in site.glob(f"{name}-*.dist-info"):
        path.unlink()
    (site / f"{name}-{version}.dist-info").mkdir()
    text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (site / f"{name}-{version}.dist-info" / "METADATA").write_text(text)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("dat-rec: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip().removeprefix("dat-rec: error: ")


EVALUATE = ("evaluate", "--run", "nowhere")
COMMANDS = (
    EVALUATE,
    ("train", "--data", "nowhere", "--out", "out"),
    ("export", "--run", "nowhere", "--out", "out"),
    ("apply", "--base", "nowhere", "--delta", "nowhere", "--out", "out"),
    ("plan", "--data", "nowhere"),
)


def test_with_all_in_place_the_input_is_what_is_refused(run: Run) -> None:
    assert "nowhere" in refused(run(*EVALUATE))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_without_torchrec_and_fbgemm_each_command_names_them(
    run: Run, site: Path, command: tuple[str, ...]
) -> None:
    leave_out(site, "torchrec", "torchrec-*", "fbgemm_gpu", "fbgemm_gpu*-*")
    assert refused(run(*command)) == f"fbgemm-gpu and torchrec not installed: run `{INSTALL}`"


@pytest.mark.parametrize("command", ["recommend", "similar"])
def test_an_export_answers_without_torchrec_and_fbgemm(run: Run, site: Path, command: str) -> None:
    leave_out(site, "torchrec", "torchrec-*", "fbgemm_gpu", "fbgemm_gpu*-*")
    assert "nowhere" in refused(run(command, "--export", "nowhere", "--out", "out"))


@pytest.mark.parametrize(("package", "distribution"), [("tyro", "tyro-*"), ("numpy", "numpy-*")])
def test_any_other_missing_package_is_named(
    run: Run, site: Path, package: str, distribution: str
) -> None:
    leave_out(site, package, distribution)
    said = refused(run("prepare", "synthetic", "--out", "world"))
    assert said == f"{package} is not installed: run `{INSTALL}`, or see `dat-rec doctor`"


def test_a_wrong_pair_is_refused_with_the_right_one(run: Run, site: Path) -> None:
    pretend(site, "torchrec", "1.7.0")
    said = refused(run(*EVALUATE))
    right = versions.pair_of(metadata.version("torch"))
    assert right
    assert f"torchrec 1.7.0 and FBGEMM {metadata.version(FBGEMM_HERE)} do not go together" in said
    partners = f"torchrec {right[1].torchrec} and FBGEMM {right[1].fbgemm}"
    assert said.endswith(f"this torch needs {partners}: run `{INSTALL}`")


def test_both_builds_of_fbgemm_are_refused(run: Run, site: Path) -> None:
    (other,) = {*versions.FBGEMM.values()} - {FBGEMM_HERE}
    pretend(site, other, "1.9.0")
    said = refused(run(*EVALUATE))
    assert f"{other} 1.9.0" in said
    assert f"{FBGEMM_HERE} " in said
    assert said.endswith(f" overwrite each other's files: run `{INSTALL}`")


def test_an_fbgemm_that_does_not_load_is_one_line(run: Run, site: Path) -> None:
    """As the CUDA build over a CPU build of torch."""
    leave_out(site, "fbgemm_gpu")
    (site / "fbgemm_gpu").mkdir()
    (site / "fbgemm_gpu" / "__init__.py").write_text(
        "import logging\nlogging.error('Could not load the library')\n"
        "raise OSError('Could not load') from OSError('undefined symbol: _ZN3c104cuda')\n"
    )
    said = refused(run(*EVALUATE))
    assert said == (
        "fbgemm_gpu does not load (OSError: Could not load ← OSError: undefined symbol: "
        f"_ZN3c104cuda): see `{sys.executable} -m dat_rec doctor`"
    )


def test_preparing_data_needs_no_torch(run: Run, site: Path) -> None:
    leave_out(site, "torch", "torch-*", "torchrec", "torchrec-*", "fbgemm_gpu", "fbgemm_gpu*-*")
    sizes = ("--users", "20", "--items", "20", "--interactions", "200")
    done = run("prepare", "synthetic", "--out", "world", *sizes)
    assert done.returncode == 0, done.stderr


def test_the_version_names_what_a_bug_report_needs(run: Run) -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("dat-rec 0.1.0 (Python 3.")
    assert f"torch {metadata.version('torch')}, torchrec " in done.stdout


@pytest.mark.parametrize(
    ("torch", "torchrec", "fbgemm", "sound"),
    [
        ("2.14.1+cu130", "1.9.2", "1.9.0", True),
        ("2.14.0", "1.9.0", "1.9.3", True),
        ("2.11.0a0+nv26", "1.6.1", "1.6.0", True),
        ("2.14.1", "1.8.0", "1.9.0", False),
        ("2.14.1", "1.9.2", "1.8.0", False),
        ("2.13.0", "1.9.2", "1.9.0", False),
        ("2.15.0", "1.9.2", "1.9.0", False),
        ("2.15.0", "1.10.0", "1.10.0", True),
    ],
)
def test_releases_that_go_together(torch: str, torchrec: str, fbgemm: str, sound: bool) -> None:
    assert (versions.mismatch(torch, torchrec, fbgemm) is None) == sound
