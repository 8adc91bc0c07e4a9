"""The README's commands run as they stand there; its paths, pins and links are true."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dat_rec.install import CHECKOUT
from dat_rec.versions import DEFAULT, PAIRS
from tests.end_to_end.forked import forked_ranks

README = (CHECKOUT / "README.md").read_text()
LIMIT_S = 400
"""Maximum seconds of a command."""


def commands() -> list[str]:
    """The lines ``$ …`` of the console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def run(command: str, forks: bool) -> subprocess.CompletedProcess[str]:
    """Run a line in this folder, by bash or, if it ``forks``, a ``dat-rec`` in a forked process."""
    program, *words = shlex.split(command)
    if forks and program == "dat-rec":
        return forked_ranks(words, [{}], LIMIT_S)[0]
    activated = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PATH": activated, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_command_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert len(found) >= 9
    stopped = False
    for number, command in enumerate(found):
        # The first is the installed program's.
        done = run(command, forks=number > 0)
        # What `timeout` has stopped ends with its code, and goes on with the next command.
        codes = (0, 124) if command.startswith("timeout ") else (0,)
        assert done.returncode in codes, f"{command}\n{done.stderr}"
        assert not stopped or "resumed after step" in done.stderr, f"{command}\n{done.stderr}"
        stopped = done.returncode == 124 and "whose checkpoint is whole" in done.stderr


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^    )make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paths_of_the_readme_exist() -> None:
    named = re.findall(r"\b((?:dat_rec|launch|benchmarks|tests|docs)/[\w./]*)", README)
    assert len(named) > 8
    for path in named:
        assert (CHECKOUT / path.rstrip(".")).exists(), path


def test_versions_in_the_table_are_those_that_the_tests_ran_with() -> None:
    table = README.partition("## Dependencies")[2].partition("\n## ")[0]
    lines = (CHECKOUT / "dat_rec" / "constraints.txt").read_text().splitlines()
    tested = {name.replace("_", "-"): version for name, version in (x.split("==") for x in lines)}
    named = 0
    for names, *versions in re.findall(r"^\| (.+?) \| (.*?) ?\|", table, re.MULTILINE):
        known = [tested[name] for name in names.split(", ") if name in tested]
        named += len(known)
        assert not known or versions == [", ".join(known)], names
    assert named >= 10
    for torch in DEFAULT.values():
        assert ", ".join((torch, PAIRS[torch].torchrec, PAIRS[torch].fbgemm)) in table
