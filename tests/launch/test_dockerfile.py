"""The container recipe, which is built nowhere here: linted, and its first layers tried."""

import subprocess
import sys
from pathlib import Path

import pytest

from dat_rec.install import CHECKOUT

DOCKERFILE = CHECKOUT / "launch" / "Dockerfile"


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run(
        [program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )


def test_the_recipe_is_clean() -> None:
    done = hadolint(DOCKERFILE.read_text())
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("FROM python:${PYTHON}", "FROM python:latest", "DL3007"),
        ("FROM python:${PYTHON}", "FROM python", "DL3006"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("WORKDIR /opt/dat_rec", "WORKDIR opt", "DL3000"),
        ('CMD ["dat-rec", "doctor"]', "CMD dat-rec doctor", "DL3025"),
        ("RUN python -m dat_rec", "RUN pip install torch && python -m dat_rec", "DL3013"),
    ],
)
def test_the_lint_finds_what_it_is_there_for(old: str, new: str, rule: str) -> None:
    text = DOCKERFILE.read_text()
    assert text.count(old) == 1
    done = hadolint(text.replace(old, new))
    assert done.returncode == 1
    assert rule in done.stdout


def test_what_is_installed_first_needs_no_file_that_comes_later(tmp_path: Path) -> None:
    """As the build does it, but for the packages: only named files are there."""
    lines = DOCKERFILE.read_text().replace("\\\n", "").splitlines()
    copies = [line.split()[1:] for line in lines if "COPY" in line]
    early = [words for words in copies if words[-1].endswith("/")]
    assert [words[-1] for words in early] == ["./", "dat_rec/", "dat_rec/preflight/", "launch/"]
    for *names, folder in early:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / folder / Path(name).name).write_bytes((CHECKOUT / name).read_bytes())
    # With site-packages but without this checkout, which is installed there.
    program = (
        "import sys; sys.path[:0] = [sys.argv.pop(1)]; sys.meta_path = [finder for finder in "
        "sys.meta_path if 'editable' not in repr(finder)]; from dat_rec.preflight.probes import "
        "probe_fbgemm; from dat_rec import install; print(install.__file__, probe_fbgemm())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"{tmp_path / 'dat_rec' / 'install.py'} computes"), done.stderr
