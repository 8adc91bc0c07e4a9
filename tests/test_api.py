"""The public API: its examples run as they stand in docs/api.md, and importing it is light."""

import doctest
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dat_rec
from dat_rec.install import CHECKOUT

PAGE = CHECKOUT / "docs" / "api.md"
WITHOUT_EXAMPLE = {"LoadedExport", "TrainConfig", "UserError"}
"""Shown where they are made, given or raised."""


def examples(text: str) -> list[tuple[str, str]]:
    """The statements of a text's examples, and what they print."""
    parsed = doctest.DocTestParser().get_examples(inspect.cleandoc(text))
    return [(example.source, example.want) for example in parsed]


@pytest.mark.slow
def test_every_example_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "doctest", str(PAGE)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_the_example_of_every_docstring() -> None:
    page = examples(PAGE.read_text())
    for name in sorted(set(dat_rec.__all__) - WITHOUT_EXAMPLE):
        public = getattr(dat_rec, name)
        if name == "train":
            from dat_rec.training.train import train as public
        shown = examples(inspect.getdoc(public) or "")
        assert shown, name
        starts = [
            page.index(shown[0], start) for start in range(len(page)) if shown[0] in page[start:]
        ]
        assert any(page[start : start + len(shown)] == shown for start in starts), name


def test_every_public_name_is_documented_on_the_page() -> None:
    for name in dat_rec.__all__:
        assert f"`{name}" in PAGE.read_text() or f"dat_rec.{name}" in PAGE.read_text(), name


def test_importing_dat_rec_loads_neither_torch_nor_anything_slow() -> None:
    code = (
        "import sys, dat_rec; print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_none_is_refused_as_python_does_it() -> None:
    with pytest.raises(AttributeError, match="module 'dat_rec' has no attribute 'fit'"):
        dat_rec.fit  # type: ignore[attr-defined]  # noqa: B018
    assert set(dat_rec.__all__) <= set(dir(dat_rec))


@pytest.mark.parametrize("read", [dat_rec.Recommender.open, dat_rec.load_export])
def test_a_text_for_a_path_is_refused_with_what_to_pass(read: Any) -> None:
    with pytest.raises(TypeError, match=r"'export' is a text: pass pathlib\.Path"):
        read("export")
